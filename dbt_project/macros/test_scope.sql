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

{#
  Whether this is a `dbt build` with all tests whose scope depends on `tested_months`. Each record of a comparison asks for it, so the answer
  is remembered in `graph`, which is one dictionary for all nodes of a run.
#}
{% macro are_soundness_tests_selected() -%}
    {%- if not execute or flags.WHICH != 'build' -%} {{ return('false') }} {%- endif -%}
    {%- if graph.get('soundness', {}).get('invocation_id') != invocation_id -%}
        {%- set missing = [] -%}
        {%- for id, node in graph.nodes.items() if node.resource_type == 'test' and node.test_metadata -%}
            {%- do missing.append(id) if node.test_metadata.name.endswith('_are_sound') and id not in selected_resources -%}
        {%- endfor -%}
        {%- do graph.update({'soundness': {'invocation_id': invocation_id, 'are_selected': 'false' if missing else 'true'}}) -%}
    {%- endif -%}
    {{ return(graph.soundness.are_selected) }}
{%- endmacro %}

{# The invocation that compares, for `verified_by`; followed by ` build` if it also tests what it compares, see `tape health`. #}
{% macro verified_by() -%}
    '{{ invocation_id }}{{ ' build' if are_soundness_tests_selected() == 'true' }}'
{%- endmacro %}

{# Predicate: the comparison `verified` is older than the tests of this build; one that runs at the same time may have made later ones. #}
{% macro was_compared_before_tests() -%}
    (
        verified.verified_by = {{ verified_by() }}
        or verified.verified_at < toDateTime64('{{ run_started_at.strftime('%Y-%m-%d %H:%M:%S') if execute }}', 6, 'UTC')
    )
{%- endmacro %}

{#
  Load packages that are not in all tables yet, because `tape follow` or another process is loading: a test must not compare their trades,
  since it reads its tables one after the other. A query begins with the scalars, which ClickHouse evaluates before it reads the tables;
  `unsettled_loads` are the packages that were not consumed by then. An empty list of consumed packages excuses nothing.
#}
{% macro load_bounds() -%}
coalesce((select consumed.load_id from {{ ref('consumed_loads') }} as consumed order by consumed.load_id desc limit 1), '') as newest_consumed,

(select groupArray(pending.load_id) from {{ ref('pending_loads') }} as pending) as pending_ids
{%- endmacro %}

{% macro unsettled_loads() -%}
    select loads.load_id from {{ ref('stg_deribit__loads') }} as loads
    where newest_consumed != '' and (loads.load_id > newest_consumed or has(pending_ids, loads.load_id))
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
  Months whose candles of `level` are tested, as texts of arrays, each with about a million rows of the tables that are read. A week
  belongs to the month in which it begins, where none of its trades may be.
#}
{% macro tested_month_groups(level) %}
    {%- set months_of_buckets = '[month, toYYYYMM(addMonths(YYYYMMDDToDate(month * 100 + 1), -1))]' if level == '1w' else '[month]' -%}
    {%- set query -%}
        select toString(groupArray(bucket_month))
        from (
            select bucket_month, intDiv(sum(rows) over (order by bucket_month), 2 * {{ mended_rows() }}) as part
            from (
                select arrayJoin({{ months_of_buckets }}) as bucket_month, max(rows) as rows
                from (
                    {{ month_states(ref(stored_table(level))) }}
                    union all
                    {{ month_states(ref(finer_table(level))) }}
                )
                where month > 0
                group by bucket_month
            )
            where {{ 'true' if is_full_test() else 'bucket_month in (' ~ compared_months(stored_table(level)) ~ ')' }}
        )
        group by part
        order by part
    {%- endset -%}
    {{ return(column_of(query)) }}
{% endmacro %}

{#
  Instrument, month and kind of up to 100 sums of a month that differ from those of `finer`, or of trades, or that have an impossible candle.
  Months of instruments to which a load package is being added may differ.
#}
{% macro wrong_totals(model, level, finer) %}
    {%- set wrong = [] -%}
    {%- if execute and flags.WHICH in ('build', 'test') -%}
        {%- for months in tested_month_groups(level) if wrong | length < 100 -%}
            {%- for row in run_query(wrong_totals_of(model, level, finer, months)).rows -%} {%- do wrong.append(row.values()) -%} {%- endfor -%}
        {%- endfor -%}
    {%- endif -%}
    {{ return(wrong) }}
{% endmacro %}

{% macro wrong_totals_of(model, level, finer, months) %}
{%- set time = 'finer.' ~ ('bucket_at' if finer else 'timestamp') -%}
with

{{ load_bounds() }},

unsettled as (
    select distinct buckets.instrument_name as instrument_name, toStartOfMonth(buckets.bucket_at) as month
    from ({{ unsettled_buckets(level) }}) as buckets
),

finer_totals as (
    select
        instrument_name,
        toStartOfMonth({{ bucket_start(level, time) }}) as month,
        {% if finer -%}
        sum(trade_count) as trades, max(high) as highest, min(low) as lowest,
        {%- else -%}
        count() as trades, max(price) as highest, min(price) as lowest,
        {%- endif %}
        sum(finer.volume) as volumes,
        sum(finer.notional) as notionals
    from {{ ref('ohlcv_' ~ finer if finer else 'trades') }} as finer
    where toYYYYMM({{ bucket_start(level, time) }}) in {{ months }} and {{ is_compared(level, bucket_start(level, time)) }}
    group by instrument_name, month
),

view_totals as (
    select
        instrument_name,
        toStartOfMonth(candles.bucket_at) as month,
        sum(trade_count) as trades,
        max(high) as highest,
        min(low) as lowest,
        sum(candles.volume) as volumes,
        sum(candles.notional) as notionals,
        count() - groupBitmap(toUInt64(toUnixTimestamp(candles.bucket_at))) as repeated_buckets,
        countIf(candles.bucket_at != {{ bucket_start(level, 'candles.bucket_at') }}) as odd_bucket_starts,
        countIf(not (low <= open and low <= close and open <= high and close <= high)) as odd_prices,
        countIf(iv_low > iv_open or iv_low > iv_close or iv_high < iv_open or iv_high < iv_close) as odd_ivs,
        -- At negative prices, volumes of inverse futures are negative, too.
        countIf(low >= 0 and (
            buy_volume > candles.volume or block_volume > candles.volume or liquidation_volume > candles.volume
        )) as odd_parts
    from {{ model }} as candles
    where toYYYYMM(candles.bucket_at) in {{ months }} and {{ is_compared(level, 'candles.bucket_at') }}
    group by instrument_name, month
),

differing as (
    select
        if(finer_totals.instrument_name = '', view_totals.instrument_name, finer_totals.instrument_name) as instrument_name,
        if(finer_totals.instrument_name = '', view_totals.month, finer_totals.month) as month,
        repeated_buckets + odd_bucket_starts + odd_prices + odd_ivs + odd_parts > 0 as is_odd
    from finer_totals
    full outer join view_totals
        on finer_totals.instrument_name = view_totals.instrument_name and finer_totals.month = view_totals.month
    where (finer_totals.trades, finer_totals.highest, finer_totals.lowest, finer_totals.volumes, finer_totals.notionals)
        != (view_totals.trades, view_totals.highest, view_totals.lowest, view_totals.volumes, view_totals.notionals)
        or is_odd
)

select instrument_name, toUnixTimestamp(toDateTime(month, 'UTC')), 'totals of the month'
from differing
where is_odd or (instrument_name, month) not in (select unsettled.instrument_name, unsettled.month from unsettled)
limit 100
{% endmacro %}

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
                {%- for row in run_query(query).rows -%} {%- do wrong.append((row[0], row[1], 'candle')) -%} {%- endfor -%}
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

{#
  Instruments whose numbers in raw and in the view `trades` differ, of the rows for which `where` holds, and how many numbers do. Months that were
  dropped are not compared, but a trade that has moved there is not lost.
#}
{% macro wrong_numbers(trades, where) %}
    {%- set is_compared = is_retained(['trade_versions', 'deribit_raw.trades'], 'timestamp') %}
    select
        if(raw.instrument_name = '', view_seqs.instrument_name, raw.instrument_name) as instrument_name,
        bitmapAndnotCardinality(raw.settled_seqs, view_seqs.seqs) as lost,
        bitmapAndnotCardinality(view_seqs.settled_seqs, raw.seqs) as invented,
        trades - bitmapCardinality(view_seqs.seqs) as repeated
    from (
        select
            instrument_name,
            groupBitmapState(toUInt64(trade_seq)) as seqs,
            groupBitmapStateIf(toUInt64(trade_seq), load_id not in ({{ unsettled_loads() }})) as settled_seqs
        from {{ ref('stg_deribit__trade_times') }}
        where load_id in (select load_id from {{ ref('consumed_loads') }}) and {{ is_compared }} and {{ where }}
        group by instrument_name
    ) as raw
    full outer join (
        select
            instrument_name,
            count() as trades,
            groupBitmapState(toUInt64(trade_seq)) as seqs,
            groupBitmapStateIf(toUInt64(trade_seq), {{ is_compared }} and {{ is_settled('loaded_at') }}) as settled_seqs
        from {{ trades }}
        where {{ where }}
        group by instrument_name
    ) as view_seqs on raw.instrument_name = view_seqs.instrument_name
    where lost > 0 or invented > 0 or repeated > 0
{% endmacro %}
