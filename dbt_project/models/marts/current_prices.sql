-- One row per instrument that has not expired: its last trade and its last 24 hours. The 24 hours end with the newest
-- trade of all instruments (column as_of), so that the result depends on data only.
with

tallies as (
    select * from {{ latest_versions(ref('instrument_tallies')) }}
),

newest_trade as (
    select max(tallies.last_at) as as_of from tallies
),

recent as (
    select
        trades.instrument_name as instrument_name,
        argMin(trades.price, (trades.timestamp, trades.trade_seq)) as open_24h,
        max(trades.price) as high_24h,
        min(trades.price) as low_24h,
        sum(trades.volume) as volume_24h,
        sum(trades.notional) as notional_24h,
        count() as trades_24h
    from {{ ref('trades') }} as trades
    -- A constant for the index, so that only the 24 hours are read.
    where trades.timestamp > (select newest_trade.as_of from newest_trade) - toIntervalHour(24)
    group by instrument_name
),

final as (
    select
        tallies.instrument_name as instrument_name,
        tallies.kind as kind,
        tallies.underlying as underlying,
        tallies.expiry as expiry,
        tallies.price as price,
        tallies.last_at as traded_at,
        tallies.trade_seq as trade_seq,
        tallies.mark_price as mark_price,
        tallies.index_price as index_price,
        tallies.iv as iv,
        if(recent.trades_24h = 0, null, recent.high_24h) as high_24h,
        if(recent.trades_24h = 0, null, recent.low_24h) as low_24h,
        if(recent.trades_24h = 0 or recent.open_24h = 0, null, tallies.price / recent.open_24h) - 1 as change_24h,
        recent.volume_24h as volume_24h,
        recent.notional_24h as notional_24h,
        recent.trades_24h as trades_24h,
        newest_trade.as_of as as_of
    from tallies
    cross join newest_trade
    left join recent on tallies.instrument_name = recent.instrument_name
    where tallies.expiry is null or tallies.expiry > newest_trade.as_of
)

select * from final
