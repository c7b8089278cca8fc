{# Stop before the first node if no load has created the raw tables yet, or if one that the selected nodes read is missing. #}
{% macro require_raw_tables() -%}
    {%- set trades = source('deribit_raw', 'trades') -%}
    {%- set init = 'tape init --target ' ~ ('cloud' if target.name == 'cloud' else 'local') -%}
    {%- if execute and not adapter.get_relation(none, trades.schema, trades.identifier) -%}
        {{ exceptions.raise_compiler_error(
            'Nothing is loaded yet: there is no table ' ~ trades.schema ~ '.' ~ trades.identifier ~ '. Run `dlt pipeline run`, '
            ~ 'or create the empty tables: ' ~ init
        ) }}
    {%- endif -%}
    {%- set missing = missing_sources() if execute else [] -%}
    {%- if missing -%}
        {{ exceptions.raise_compiler_error(
            'There is no table ' ~ missing | join(', ') ~ ', from which models are made. Restore it, or create it without rows: ' ~ init
        ) }}
    {%- endif -%}
{%- endmacro %}

{# Names of the sources that do not exist, of those that the selected nodes are made from, without those that may be missing (`is_optional`). #}
{% macro missing_sources() -%}
    {%- set missing = [] -%}
    {%- set seen = selected_resources | list -%}
    {%- for id in seen -%} {#- grows as it is read -#}
        {%- set source = graph.sources.get(id) -%}
        {%- for parent in graph.nodes.get(id, {}).get('depends_on', {}).get('nodes', []) if parent not in seen -%}
            {%- do seen.append(parent) -%}
        {%- endfor -%}
        {%- if source and not source.config.meta.get('is_optional') and not adapter.get_relation(none, source.schema, source.identifier) -%}
            {%- do missing.append(source.schema ~ '.' ~ source.identifier) -%}
        {%- endif -%}
    {%- endfor -%}
    {{ return(missing | sort) }}
{%- endmacro %}

{# Stop if a model has the name of a raw table, as in one schema for both: dbt would replace the table, and its rows would be lost. #}
{% macro refuse_to_replace_raw_tables() -%}
    {%- set raw_tables = [] -%}
    {%- for source in graph.get('sources', {}).values() -%} {%- do raw_tables.append(source.schema ~ '.' ~ source.identifier) -%} {%- endfor -%}
    {%- for node in graph.get('nodes', {}).values() if node.schema ~ '.' ~ node.alias in raw_tables -%}
        {{ exceptions.raise_compiler_error(
            'The ' ~ node.resource_type ~ ' ' ~ node.name ~ ' would replace the raw table ' ~ node.schema ~ '.' ~ node.alias
            ~ ': its schema has to be another one, see TAPE_SCHEMA and TAPE_RAW_SCHEMA'
        ) }}
    {%- endfor -%}
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
