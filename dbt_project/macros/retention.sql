{#
  A month that `tape retention` dropped from a level is closed: neither it nor the level made from it is computed there again, for
  what it would be computed from is not whole any more. A trade that comes that late is kept, in raw and in `trades`.

  A table is known by its uuid: one that was rebuilt has all its months again.
#}

{# Months (YYYYMM) that were dropped from any of `tables`; one of another database is named with it. #}
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

{# Predicate: the month of `time` was dropped from none of `tables`. #}
{% macro is_kept(tables, time) -%}
    {%- set months = dropped_months(tables) -%}
    {%- if months -%} toYYYYMM({{ time }}) not in ({{ months | join(', ') }}) {%- else -%} true {%- endif -%}
{%- endmacro %}

{# The table that candles of `level` are computed from. #}
{% macro finer_table(level) -%}
    {%- set finer = {'15m': '1m', '1h': '15m', '4h': '1h', '1d': '4h', '1w': '1d', '1mo': '1d'} -%}
    {{ return(candle_table(finer[level]) if level in finer else 'trade_versions') }}
{%- endmacro %}

{# Predicate: no month that the bucket reaches into was dropped. Only weeks reach into two. #}
{% macro is_open(level, bucket_at) -%}
    {%- set tables = [candle_table(level), finer_table(level)] -%}
    {{ is_kept(tables, bucket_at) }}
    {%- if level == '1w' %} and {{ is_kept(tables, bucket_at ~ ' + toIntervalDay(6)') }} {%- endif -%}
{%- endmacro %}

{# Candles are not rebuilt from a table that lacks months: theirs would be lost. #}
{% macro require_whole(level) -%}
    {%- set table = finer_table(level) -%}
    {%- if not is_incremental() and not flags.EMPTY and dropped_months([table]) -%}
        {{ exceptions.raise_compiler_error(
            'ohlcv_' ~ level ~ ' would lose the months that `tape retention` dropped from ' ~ table ~ '; rebuild both: '
            ~ 'dbt run --full-refresh --select +' ~ candle_table(level)
        ) }}
    {%- endif -%}
{%- endmacro %}

{# The same of a model made from raw trades. #}
{% macro require_whole_raw() -%}
    {%- if not is_incremental() and not flags.EMPTY and dropped_months(['deribit_raw.trades']) -%}
        {{ exceptions.raise_compiler_error(
            this.identifier ~ ' would lose the months that `tape retention` dropped from deribit_raw.trades; to build it from '
            ~ 'what is left all the same: truncate table ' ~ target.schema ~ '.retention_drops'
        ) }}
    {%- endif -%}
{%- endmacro %}
