{# Stop before the first node if no load has created the raw tables yet. #}
{% macro require_raw_tables() -%}
    {%- set trades = source('deribit_raw', 'trades') -%}
    {%- if execute and not adapter.get_relation(none, trades.schema, trades.identifier) -%}
        {{ exceptions.raise_compiler_error(
            'Nothing is loaded yet: there is no table ' ~ trades.schema ~ '.' ~ trades.identifier ~ '. Run `dlt pipeline run`, '
            ~ 'or create the empty tables: tape init --target ' ~ ('cloud' if target.name == 'cloud' else 'local')
        ) }}
    {%- endif -%}
{%- endmacro %}

{# Stop if a model that the loader reads by name is in another schema or has an alias: no load would refresh the others. #}
{% macro require_models_of_the_loader() -%}
    {%- for name in ('refresh_plan', 'refresh_log', 'consumed_loads', 'pending_loads', 'pending_portions') if execute -%}
        {%- if declared_name(name) != target.schema ~ '.' ~ name -%}
            {{ exceptions.raise_compiler_error(
                name ~ ' has to be ' ~ target.schema ~ '.' ~ name ~ ', where the loader reads it, and not ' ~ declared_name(name)
            ) }}
        {%- endif -%}
    {%- endfor -%}
{%- endmacro %}

{# Time of a load package in µs since 1970 UTC: its id is that time in seconds. #}
{% macro load_us(load_id) -%} toUInt64(toDecimal128({{ load_id }}, 6) * 1000000) {%- endmacro %}
