{#
  Scope of the data tests. `dbt build` tests the months that were compared with their source since the tests of a build have last passed
  (`tested_months`), so that its cost depends on what is new, and a test fails until its rows are right; `dbt test` tests all rows. Tests
  read the views, which have no unmerged duplicates.
#}
{% macro is_full_test() -%}
    {{ return(flags.WHICH != 'build') }}
{%- endmacro %}

{#
  Months (YYYYMM) of the model `table` that were compared with their source, because they had changed, and are not tested since. Only those
  of this target count: with `--defer`, `ref` may name the tables of another one, whose months say nothing about what is built here.
#}
{% macro compared_months(table) -%}
    {%- set verified_months = ref('verified_months') if not execute else declared_relation('verified_months') -%}
    {%- set tested_months = load_relation(declared_relation('tested_months')) if execute -%}
    {%- if execute and not load_relation(verified_months) -%}
    select toUInt32(0) from system.one where false
    {%- else -%}
    select verified.month from {{ verified_months }} as verified
    {% if tested_months -%}
    left join (
        select tested.month as month, max(tested.tested_at) as tested_at from {{ tested_months }} as tested
        where tested.model = '{{ table }}'
        group by month
    ) as tested on verified.month = tested.month
    {%- endif %}
    where verified.model = '{{ table }}' {{ 'and verified.verified_at > tested.tested_at' if tested_months }}
    {%- endif -%}
{%- endmacro %}

{# Whether this is a `dbt build` with all tests whose scope depends on `tested_months`. #}
{% macro are_soundness_tests_selected() -%}
    {%- if not execute or flags.WHICH != 'build' -%} {{ return('false') }} {%- endif -%}
    {%- set missing = [] -%}
    {%- for id, node in graph.nodes.items() if node.resource_type == 'test' and node.test_metadata -%}
        {%- do missing.append(id) if node.test_metadata.name.endswith('_are_sound') and id not in selected_resources -%}
    {%- endfor -%}
    {{ return('false' if missing else 'true') }}
{%- endmacro %}

{# Predicate: the comparison `verified` is older than the tests of this build; one that runs at the same time may have made later ones. #}
{% macro was_compared_before_tests() -%}
    (
        verified.verified_by = '{{ invocation_id }}'
        or verified.verified_at < toDateTime64('{{ run_started_at.strftime('%Y-%m-%d %H:%M:%S') if execute }}', 6, 'UTC')
    )
{%- endmacro %}

{#
  Load packages that are not in all tables yet, because `tape follow` or another process is loading: a test must not compare their trades,
  since it reads its tables one after the other. A query begins with the scalars, which ClickHouse evaluates before it reads the tables;
  `unsettled_loads` are the packages that were not consumed by then. An empty list of consumed packages excuses nothing.
#}
{% macro load_bounds() -%}
(select max({{ load_us('consumed.load_id') }}) from {{ ref('consumed_loads') }} as consumed) as consumed_us,

(select groupArray(pending.load_id) from ({{ pending_loads(ref('consumed_loads')) }}) as pending) as pending_ids
{%- endmacro %}

{% macro unsettled_loads() -%}
    select loads.load_id from {{ ref('stg_deribit__loads') }} as loads
    where consumed_us > 0 and ({{ load_us('loads.load_id') }} > consumed_us or has(pending_ids, loads.load_id))
{%- endmacro %}

{# Predicate: the trade is of a load package that was in all tables when the query began. #}
{% macro is_settled(loaded_at) -%}
    toUnixTimestamp64Micro({{ loaded_at }}) not in (
        select toInt64({{ load_us('unsettled.load_id') }}) from ({{ unsettled_loads() }}) as unsettled
    )
{%- endmacro %}

{# Instruments and buckets of `level` whose candles the trades of unsettled packages change, or will change. #}
{% macro unsettled_buckets(level) -%}
    select trades.instrument_name as instrument_name, {{ bucket_start(level, 'trades.timestamp') }} as bucket_at
    from {{ ref('stg_deribit__trade_times') }} as trades
    where trades.load_id in ({{ unsettled_loads() }})
    union all
    select moved.instrument_name, {{ bucket_start(level, 'moved.timestamp') }}
    from {{ ref('moved_trades') }} as moved
    where moved.load_id in ({{ unsettled_loads() }})
{%- endmacro %}

{# Predicate: `time` is in a month of `table` that this build tests, or, for a full test, in any. #}
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
                    with {{ load_bounds() }}, {{ candle_differences(level, versions, months, range) }}
                    select instrument_name, toUnixTimestamp(bucket_at) from (
                        select instrument_name, bucket_at from differing
                        union all
                        select instrument_name, bucket_at from emptied
                    )
                    where (instrument_name, bucket_at) not in (
                        select unsettled.instrument_name, unsettled.bucket_at from ({{ unsettled_buckets(level) }}) as unsettled
                    )
                    limit 100
                {%- endset -%}
                {%- for row in run_query(query).rows -%} {%- do wrong.append((row[0], row[1])) -%} {%- endfor -%}
            {%- endfor -%}
        {%- endfor -%}
    {%- endif -%}
    {{ return(wrong) }}
{% endmacro %}

{# Up to 100 hours of expiries that differ from what is computed from their trades, in an explicit `dbt test`, as `wrong_candles`. #}
{% macro wrong_expiry_hours(versions) %}
    {%- set wrong = [] -%}
    {%- if execute and flags.WHICH == 'test' -%}
        {%- set source = ref('trade_versions') -%}
        {%- for months, _ in changed_months(versions, source, every=true) if wrong | length < 100 -%}
            {%- for range in hour_ranges(source, months) -%}
                {%- set query -%}
                    with

                    {{ load_bounds() }},

                    unsettled_hours as ({{ unsettled_buckets('1h') }}),

                    unsettled as ({{ expiry_hours_of('unsettled_hours') }}),

                    {{ expiry_hour_differences(versions, months, range) }}

                    select underlying, settlement_currency, toUnixTimestamp(expiry), toUnixTimestamp(bucket_at) from (
                        select {{ expiry_key() }}, bucket_at from differing
                        union all
                        select {{ expiry_key() }}, bucket_at from emptied
                    )
                    where ({{ expiry_key() }}, bucket_at) not in (select {{ expiry_key('unsettled') }}, unsettled.bucket_at from unsettled)
                    limit 100
                {%- endset -%}
                {%- for row in run_query(query).rows -%} {%- do wrong.append(row.values()) -%} {%- endfor -%}
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
