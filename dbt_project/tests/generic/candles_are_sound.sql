{#
  Candles are consistent, per instrument and month: one candle per bucket, at its start, with low ≤ open, close ≤ high, and
  buy and sell volume that add up; trades, volume, notional, high and low are equal to those of the level `finer`, or of trades.

  `dbt test` also computes each candle of a stored level again and compares all of its columns. `dbt build` has just done so
  (macros/mend.sql), and has replaced and logged the wrong ones.
#}
{% test candles_are_sound(model, level, finer=none) %}
-- depends_on: {{ ref('verified_months') }} {{ ref('retention_drops') }} {{ ref('consumed_loads') }}
-- depends_on: {{ ref('stg_deribit__trade_times') }} {{ ref('stg_deribit__loads') }} {{ ref('moved_trades') }}
-- depends_on: {{ ref(finer_table(level)) }}
{%- set versions = ref(candle_table(level)) if var('candle_levels')[level].is_stored %}
{{ blocks_nothing() }}
with

{{ load_bounds() }},

-- Months of instruments to which a load package is being added.
unsettled as (
    select distinct buckets.instrument_name as instrument_name, toStartOfMonth(buckets.bucket_at) as month
    from ({{ unsettled_buckets(level) }}) as buckets
),

finer_totals as (
    select
        instrument_name,
        toStartOfMonth({{ bucket_start(level, 'bucket_at' if finer else 'timestamp') }}) as month,
        {% if finer -%}
        sum(trade_count) as trades, max(high) as highest, min(low) as lowest, sum(finer.volume) as volumes,
        sum(finer.notional) as notionals
        {%- else -%}
        count() as trades, max(price) as highest, min(price) as lowest, sum(finer.volume) as volumes,
        sum(finer.notional) as notionals
        {%- endif %}
    from {{ ref('ohlcv_' ~ finer if finer else 'trades') }} as finer
    where
        {{ in_test_scope('finer.' ~ ('bucket_at' if finer else 'timestamp'), stored_table(level)) }}
        and {{ is_compared(level, bucket_start(level, 'finer.' ~ ('bucket_at' if finer else 'timestamp'))) }}
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
        countIf(buy_volume + sell_volume != candles.volume) as odd_sides,
        countIf(block_volume > candles.volume or liquidation_volume > candles.volume) as odd_parts
    from {{ model }} as candles
    where {{ is_compared(level, 'candles.bucket_at') }}
    group by instrument_name, month
),

wrong_totals as (
    select
        if(finer_totals.instrument_name = '', view_totals.instrument_name, finer_totals.instrument_name) as instrument_name,
        toDateTime(if(finer_totals.instrument_name = '', view_totals.month, finer_totals.month), 'UTC') as bucket_at,
        'totals of the month' as wrong,
        repeated_buckets + odd_bucket_starts + odd_prices + odd_ivs + odd_sides + odd_parts > 0 as is_odd
    from finer_totals
    full outer join view_totals
        on finer_totals.instrument_name = view_totals.instrument_name and finer_totals.month = view_totals.month
    where (finer_totals.trades, finer_totals.highest, finer_totals.lowest, finer_totals.volumes, finer_totals.notionals)
        != (view_totals.trades, view_totals.highest, view_totals.lowest, view_totals.volumes, view_totals.notionals)
        or is_odd
),

failures as (
    select instrument_name, bucket_at, wrong from wrong_totals
    where is_odd or (instrument_name, toDate(bucket_at)) not in (select unsettled.instrument_name, unsettled.month from unsettled)
    {%- for instrument_name, bucket_at in wrong_candles(level, versions) %}
    union all
    select {{ sql_text(instrument_name) }}, toDateTime({{ bucket_at }}, 'UTC'), 'candle'
    {%- endfor %}
)

select * from failures
{% endtest %}
