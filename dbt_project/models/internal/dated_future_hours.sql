-- One row per dated future and hour with trades of its order book: the last price and index.
with

ends as (
    select * from {{ latest_versions(ref('instrument_ends')) }}
),

final as (
    select
        trades.instrument_name as instrument_name,
        toLowCardinality(assumeNotNull(trades.underlying)) as underlying,
        toLowCardinality(assumeNotNull(trades.settlement_currency)) as settlement_currency,
        assumeNotNull(trades.expiry) as expiry,
        {{ hour_of('trades.timestamp') }} as bucket_at,
        max(trades.timestamp) as traded_at,
        argMax(trades.price, {{ trade_place('trades') }}) as price,
        argMax(assumeNotNull(trades.index_price), {{ trade_place('trades') }}) as index_price
    from {{ ref('trades') }} as trades
    where
        trades.kind = 'future'
        -- The names select their rows by the sort key of the trades.
        and trades.instrument_name in (
            select ends.instrument_name from ends
            where ends.kind = 'future' and ends.expiry is not null
        )
        and {{ shows_market_price('trades') }}
    group by instrument_name, underlying, settlement_currency, expiry, bucket_at
)

select * from final
