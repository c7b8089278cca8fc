-- One row per raw row, with types and the parts of the instrument's name; no row is dropped or merged.
with

source as (
    select * from {{ source('deribit_raw', 'trades') }}
),

parsed as (
    select
        *,
        {{ instrument_parts() }}
    from source
),

final as (
    select
        toString(_dlt_load_id) as load_id,
        {{ load_us('toString(_dlt_load_id)') }} as load_us,
        toString(instrument_name) as instrument_name,
        toInt64(trade_seq) as trade_seq,
        toString(trade_id) as trade_id,
        timestamp,
        toFloat64(price) as price,
        toFloat64(amount) as amount,
        toLowCardinality(toString(direction)) as direction,
        accurateCastOrNull(tick_direction, 'UInt8') as tick_direction,
        index_price,
        mark_price,
        iv,
        contracts,
        toLowCardinality(cast(liquidation as Nullable(String))) as liquidation,
        cast(block_trade_id as Nullable(String)) as block_trade_id,
        block_trade_leg_count,
        block_rfq_id,
        cast(combo_id as Nullable(String)) as combo_id,
        cast(combo_trade_id as Nullable(String)) as combo_trade_id,
        cast(legs as Nullable(String)) as legs,
        cast(extra as Nullable(String)) as extra,
        toLowCardinality(toString(currency)) as currency,
        toLowCardinality(toString(kind)) as kind,
        toLowCardinality(underlying) as underlying,
        toLowCardinality(quote_currency) as quote_currency,
        toLowCardinality(settlement_currency) as settlement_currency,
        expiry,
        strike,
        toLowCardinality(option_type) as option_type
    from parsed
)

select * from final
