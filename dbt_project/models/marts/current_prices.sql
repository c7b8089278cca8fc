-- One row per instrument that can be traded: its last trade and its last 24 hours. Both end with the newest trade of
-- all instruments (column as_of), so that the result depends on data only, and later trades are in neither.
with

tallies as (
    select * from {{ ref('instrument_tallies') }}
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
        count() as trades_24h,
        -- A tuple preserves nulls, which argMax itself would skip.
        argMax(
            tuple(trades.timestamp, trades.trade_seq, trades.price, trades.mark_price, trades.index_price, trades.iv),
            (trades.timestamp, trades.trade_seq)
        ) as last_trade
    from {{ ref('trades') }} as trades
    -- Constants for the index, so that only the 24 hours are read.
    where
        trades.timestamp > (select newest_trade.as_of from newest_trade) - toIntervalHour(24)
        and trades.timestamp <= (select newest_trade.as_of from newest_trade)
    group by instrument_name
),

-- The tallies have the last trade of an instrument that has none in the 24 hours.
last_trades as (
    select
        tallies.instrument_name as instrument_name,
        tallies.kind as kind,
        tallies.underlying as underlying,
        if(
            recent.trades_24h > 0,
            recent.last_trade,
            tuple(
                tallies.last_at, tallies.trade_seq, tallies.price, tallies.mark_price, tallies.index_price, tallies.iv
            )
        ) as last_trade,
        if(recent.trades_24h = 0, null, recent.open_24h) as open_24h,
        if(recent.trades_24h = 0, null, recent.high_24h) as high_24h,
        if(recent.trades_24h = 0, null, recent.low_24h) as low_24h,
        if(recent.trades_24h = 0, toDecimal128(0, 12), recent.volume_24h) as volume_24h,
        if(recent.trades_24h = 0, toDecimal128(0, 12), recent.notional_24h) as notional_24h,
        recent.trades_24h as trades_24h
    from tallies
    left join recent on tallies.instrument_name = recent.instrument_name
),

final as (
    select
        last_trades.instrument_name as instrument_name,
        last_trades.kind as kind,
        last_trades.underlying as underlying,
        toDateTime(instruments.expires_at, 'UTC') as expiry,
        last_trades.last_trade.3 as price,
        last_trades.last_trade.1 as traded_at,
        last_trades.last_trade.2 as trade_seq,
        last_trades.last_trade.4 as mark_price,
        last_trades.last_trade.5 as index_price,
        last_trades.last_trade.6 as iv,
        last_trades.high_24h as high_24h,
        last_trades.low_24h as low_24h,
        -- A share of a price of zero or less has no meaning.
        if(last_trades.open_24h > 0, price / last_trades.open_24h - 1, null) as change_24h,
        last_trades.volume_24h as volume_24h,
        last_trades.notional_24h as notional_24h,
        last_trades.trades_24h as trades_24h,
        newest_trade.as_of as as_of
    from last_trades
    cross join newest_trade
    inner join {{ ref('instruments') }} as instruments on last_trades.instrument_name = instruments.instrument_name
    where
        (instruments.expires_at is null or instruments.expires_at > newest_trade.as_of)
        and coalesce(instruments.is_active, true)
)

select * from final
