{#
  Scope of the data tests. `dbt build` tests the months that it has just compared with their source, so that its cost depends on what
  is new; `dbt test` tests all rows. Tests read the views, which have no unmerged duplicates.
#}
{% macro is_full_test() -%}
    {{ return(flags.WHICH != 'build') }}
{%- endmacro %}

{# Months (YYYYMM) of the model `table` that this run has compared with their source, because they have changed. #}
{% macro compared_months(table) -%}
    select verified.month from {{ ref('verified_months') }} as verified
    where verified.model = '{{ table }}' and verified.verified_by = '{{ invocation_id }}'
{%- endmacro %}

{# Predicate: `time` is in a month of `table` that this build has compared, or, for a full test, in any. #}
{% macro in_test_scope(time, table) -%}
    {%- if is_full_test() -%}
    true
    {%- else -%}
    toYYYYMM({{ time }}) in ({{ compared_months(table) }})
    {%- endif -%}
{%- endmacro %}

{# The table in which candles of `level` are stored, their own or that of the level that their view reads. #}
{% macro stored_table(level) -%}
    {%- set declared = var('candle_levels')[level] -%}
    {{ return(candle_table(level if declared.get('is_stored') else declared.finer)) }}
{%- endmacro %}

{# Predicate: the bucket is in months that are in scope and that `tape retention` has not dropped. Only weeks can be in two months. #}
{% macro is_compared(level, bucket_at) -%}
    {%- set tables = [stored_table(level), finer_table(level)] -%}
    {{ is_retained(tables, bucket_at) }} and {{ in_test_scope(bucket_at, stored_table(level)) }}
    {%- if level == '1w' -%}
    {%- set last_day = bucket_at ~ ' + toIntervalDay(6)' %}
    and {{ is_retained(tables, last_day) }} and {{ in_test_scope(last_day, stored_table(level)) }}
    {%- endif -%}
{%- endmacro %}

{#
  Instrument and start of up to 100 stored candles of `level` that differ from what is computed from their source, in an explicit
  `dbt test`. All months are compared, in portions (macros/mend.sql), so that memory does not grow with the history.
#}
{% macro wrong_candles(level, versions) %}
    {%- set wrong = [] -%}
    {%- if execute and flags.WHICH == 'test' and versions -%}
        {%- set source = ref(finer_table(level)) -%}
        {%- for months, _ in changed_months(versions, source, every=true) if wrong | length < 100 -%}
            {%- for range in instrument_ranges(source, candle_source(level)[1], months) -%}
                {%- set query -%}
                    with {{ candle_differences(level, versions, months, range) }}
                    select instrument_name, toUnixTimestamp(bucket_at) from differing
                    union all
                    select instrument_name, toUnixTimestamp(bucket_at) from emptied
                    limit 100
                {%- endset -%}
                {%- for row in run_query(query).rows -%} {%- do wrong.append((row[0], row[1])) -%} {%- endfor -%}
            {%- endfor -%}
        {%- endfor -%}
    {%- endif -%}
    {{ return(wrong) }}
{% endmacro %}

{#
  Keeps a failed test from stopping `dbt build`: it skips the models that are downstream of everything that the test depends on, and
  nothing is downstream of this model.
#}
{% macro blocks_nothing() -%} {%- do ref('refresh_plan') -%} {%- endmacro %}
