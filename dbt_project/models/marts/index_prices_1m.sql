-- One row per (underlying, index_currency, bucket_at): the index price as recorded in trades, for minutes with trades.
-- Combos are excluded, because their legs have the same index price.
with

quoted as (
    select
        trades.underlying as underlying,
        -- Inverse options are quoted in the coin, but their index is in USD, as that of inverse futures.
        toLowCardinality(if(trades.quote_currency = trades.underlying, 'USD', trades.quote_currency)) as index_currency,
        toStartOfMinute(trades.timestamp) as bucket_at,
        trades.timestamp as timestamp,
        trades.instrument_name as instrument_name,
        trades.trade_seq as trade_seq,
        assumeNotNull(trades.index_price) as index_price
    from {{ ref('trades') }} as trades
    where trades.index_price is not null and trades.underlying is not null and not trades.is_combo
),

final as (
    select
        toLowCardinality(assumeNotNull(quoted.underlying)) as underlying,
        toLowCardinality(assumeNotNull(quoted.index_currency)) as index_currency,
        toDateTime(quoted.bucket_at, 'UTC') as bucket_at,
        argMin(quoted.index_price, (quoted.timestamp, quoted.instrument_name, quoted.trade_seq)) as open,
        max(quoted.index_price) as high,
        min(quoted.index_price) as low,
        argMax(quoted.index_price, (quoted.timestamp, quoted.instrument_name, quoted.trade_seq)) as close,
        count() as trade_count
    from quoted
    group by underlying, index_currency, bucket_at
)

select * from final
