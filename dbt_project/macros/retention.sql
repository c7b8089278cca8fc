{#
  A month that `tape retention` dropped from a level is closed: its candles, and those of the level computed from it, are no longer
  recomputed, because their input is incomplete. A trade that arrives later is still stored in raw and in `trades`.

  Tables are identified by uuid, so a table that was rebuilt has all its months again.
#}

{# Months (YYYYMM) that were dropped from any of `tables`. Tables of other databases are given with their database. #}
{% macro dropped_months(tables) %}
    {%- set drops = adapter.get_relation(none, target.schema, 'retention_drops') if execute -%}
    {%- if not drops or model.resource_type == 'unit_test' -%}
        {{ return([]) }}
    {%- endif -%}
    {%- set names = [] -%}
    {%- for table in tables -%}
        {%- do names.append(table if '.' in table else target.schema ~ '.' ~ table) -%}
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

{# Predicate: no month of the bucket was dropped. Only weeks can be in two months. #}
{% macro is_month_open(level, bucket_at) -%}
    {%- set tables = [candle_table(level), finer_table(level)] -%}
    {{ is_retained(tables, bucket_at) }}
    {%- if level == '1w' %} and {{ is_retained(tables, bucket_at ~ ' + toIntervalDay(6)') }} {%- endif -%}
{%- endmacro %}

{# Refuse to rebuild candles from a table that lacks months, because the candles of those months would be lost. #}
{% macro require_complete_history(level) -%}
    {%- set table = finer_table(level) -%}
    {%- if not is_incremental() and not flags.EMPTY and dropped_months([table]) -%}
        {{ exceptions.raise_compiler_error(
            'ohlcv_' ~ level ~ ' would lose the months that `tape retention` dropped from ' ~ table ~ '; rebuild both: '
            ~ 'dbt run --full-refresh --select +' ~ candle_table(level)
        ) }}
    {%- endif -%}
{%- endmacro %}

{# The same for a model that is computed from raw trades. #}
{% macro require_complete_raw_history() -%}
    {%- if not is_incremental() and not flags.EMPTY and dropped_months(['deribit_raw.trades']) -%}
        {{ exceptions.raise_compiler_error(
            this.identifier ~ ' would lose the months that `tape retention` dropped from deribit_raw.trades; to build it from '
            ~ 'the remaining rows anyway: truncate table ' ~ target.schema ~ '.retention_drops'
        ) }}
    {%- endif -%}
{%- endmacro %}
