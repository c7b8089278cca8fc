{#
  A month that `tape retention` dropped from a level is closed: its candles, and those of the level computed from it, are no longer
  recomputed, because their input is incomplete. A trade that arrives later is still stored in raw and in `trades`.

  Tables are identified by uuid, so a table that was rebuilt has all its months again.
#}

{# Months (YYYYMM) that were dropped from any of `tables`: relations, names of models, or deribit_raw.trades. #}
{% macro dropped_months(tables) %}
    {%- set drops = load_relation(declared_relation('retention_drops')) if execute -%}
    {%- if not drops or model.resource_type == 'unit_test' -%}
        {{ return([]) }}
    {%- endif -%}
    {%- set names = [] -%}
    {%- for table in tables -%}
        {%- if table is not string -%} {%- set relation = table -%}
        {%- elif table == 'deribit_raw.trades' -%} {%- set relation = source('deribit_raw', 'trades') -%}
        {%- else -%} {%- set relation = declared_relation(table) -%}
        {%- endif -%}
        {%- do names.append(relation.schema ~ '.' ~ relation.identifier) -%}
    {%- endfor -%}
    {%- set query -%}
        select distinct month from {{ drops }}
        where table_id in (
            select uuid from system.tables where concat(database, '.', name) in ('{{ names | join("', '") }}')
        )
        order by month
    {%- endset -%}
    {{ return(run_query(query).rows | map(attribute=0) | list) }}
{% endmacro %}

{# Predicate: the month of `time` was not dropped from any of `tables`. #}
{% macro is_retained(tables, time) -%}
    {%- set months = dropped_months(tables) -%}
    {%- if months -%} toYYYYMM({{ time }}) not in ({{ months | join(', ') }}) {%- else -%} true {%- endif -%}
{%- endmacro %}

{# The table that candles of `level` are computed from. #}
{% macro finer_table(level) -%}
    {%- set finer = var('candle_levels')[level].finer -%}
    {{ return(candle_table(finer) if finer else 'trade_versions') }}
{%- endmacro %}

{# Predicate: the month of `time` was dropped from none of `tables`, names of models, as of now. #}
{% macro is_month_open(tables, time) -%}
    toYYYYMM({{ time }}) not in (
        select drops.month from {{ ref('retention_drops') }} as drops
        where drops.table_id in (
            select tables.uuid from system.tables as tables
            where (tables.database, tables.name) in (
                {%- for table in tables -%}
                {%- set relation = declared_relation(table) if execute and model.resource_type != 'unit_test' else this -%}
                ('{{ relation.schema }}', '{{ relation.identifier }}'){{ ', ' if not loop.last }}
                {%- endfor -%}
            )
        )
    )
{%- endmacro %}

{# Whether this run creates the model's table. #}
{% macro is_rebuild() -%}
    {{ return(execute and model.resource_type != 'unit_test' and (flags.FULL_REFRESH or not load_relation(this))) }}
{%- endmacro %}

{# Refuse to rebuild the model from `table` if that lacks months, because the model's rows of those months would be lost. #}
{% macro require_complete_history(table) -%}
    {%- if is_rebuild() and not flags.EMPTY and dropped_months([table]) -%}
        {{ exceptions.raise_compiler_error(
            this.identifier ~ ' would lose the months that `tape retention` dropped from ' ~ table ~ '; rebuild both: '
            ~ 'dbt run --full-refresh --select +' ~ this.identifier
        ) }}
    {%- endif -%}
{%- endmacro %}

{# The same for a model that is computed from raw trades. #}
{% macro require_complete_raw_history() -%}
    {%- if is_rebuild() and not flags.EMPTY and dropped_months(['deribit_raw.trades']) -%}
        {{ exceptions.raise_compiler_error(
            this.identifier ~ ' would lose the months that `tape retention` dropped from deribit_raw.trades; to build it from '
            ~ 'the remaining rows anyway: truncate table ' ~ declared_relation('retention_drops')
        ) }}
    {%- endif -%}
{%- endmacro %}
