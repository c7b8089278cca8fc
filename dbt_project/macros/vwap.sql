{# Volume-weighted price of the grouped rows of trades or candles; null without volume. #}
{% macro vwap(notional='notional', volume='volume') -%}
    toFloat64(sum({{ notional }})) / nullIf(toFloat64(sum({{ volume }})), 0)
{%- endmacro %}

{#
  Volume-weighted price of a coin across its futures, perpetuals and spot pairs, per underlying, quote currency and bucket of
  `candles`. Options and combos are excluded, because their prices are not prices of the coin.

  1. Instruments with fewer trades than `vwap_min_trades` are excluded as thin, unless all are.
  2. The median of the others is the price at half of their volume.
  3. Instruments that differ from it by more than the share `vwap_max_deviation` are excluded as outliers.

  Usable in queries of any level: `{{ underlying_vwap(ref('ohlcv_1d')) }}`.
#}
{% macro underlying_vwap(candles) %}
with

candles as (
    select
        instrument_name,
        bucket_at,
        toFloat64(notional) / toFloat64(volume) as price,
        assumeNotNull(candles.volume) as volume,
        assumeNotNull(candles.notional) as notional,
        trade_count
    from {{ candles }} as candles
    where kind in ('future', 'spot') and candles.volume > 0
),

parsed as (
    select
        *,
        {{ instrument_parts() }}
    from candles
),

-- Each instrument is (price, name, volume, notional, trades).
grouped as (
    select
        name_base as coin,
        assumeNotNull(quote_currency) as quote,
        bucket_at,
        arraySort(groupArray((price, instrument_name, volume, notional, trade_count))) as listed
    from parsed
    where is_parsed
    group by coin, quote, bucket_at
),

filtered as (
    select
        *,
        arrayFilter(one -> one.5 >= {{ var('vwap_min_trades') }}, listed) as not_thin,
        if(empty(not_thin), listed, not_thin) as candidates,
        arrayCumSum(one -> one.3, candidates) as volumes,
        candidates[arrayFirstIndex(cumulative -> cumulative * 2 >= volumes[-1], volumes)].1 as median,
        arrayFilter(one -> abs(one.1 - median) <= abs(median) * {{ var('vwap_max_deviation') }}, candidates) as counted
    from grouped
),

final as (
    select
        toLowCardinality(coin) as underlying,
        toLowCardinality(quote) as quote_currency,
        bucket_at,
        toFloat64(notional) / toFloat64(volume) as vwap,
        median as median_price,
        toDecimal128(arraySum(one -> one.3, counted), 12) as volume,
        toDecimal128(arraySum(one -> one.4, counted), 12) as notional,
        arraySum(one -> one.5, counted) as trade_count,
        length(counted) as instruments,
        toUInt64(length(candidates) - length(counted)) as outliers,
        toUInt64(length(listed) - length(candidates)) as thin_instruments
    from filtered
)

select * from final
{% endmacro %}
