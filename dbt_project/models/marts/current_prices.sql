-- One row per live instrument: its last trade, and its last 24 hours. "Now" is the newest trade there is, column as_of,
-- so that the answer depends on the data alone; an instrument is live until it expires.
with

newest_day as (
    select max(days.bucket_at) as day
    from {{ ref('ohlcv_1d') }} as days
),

now_is as (
    select max(todays.timestamp) as as_of
    from {{ ref('trades') }} as todays
    where toStartOfDay(todays.timestamp) in (select newest_day.day from newest_day)
),

last_days as (
    select
        days.instrument_name as instrument_name,
        max(days.bucket_at) as day
    from {{ ref('ohlcv_1d') }} as days
    group by instrument_name
),

last_trades as (
    select
        trades.instrument_name as instrument_name,
        toLowCardinality(any(trades.kind)) as kind,
        toLowCardinality(any(trades.underlying)) as underlying,
        any(trades.expiry) as expiry,
        max(trades.trade_seq) as trade_seq,
        argMax(trades.price, (trades.timestamp, trades.trade_seq)) as price,
        tupleElement(argMax(tuple(trades.mark_price), (trades.timestamp, trades.trade_seq)), 1) as mark_price,
        tupleElement(argMax(tuple(trades.index_price), (trades.timestamp, trades.trade_seq)), 1) as index_price,
        tupleElement(argMax(tuple(trades.iv), (trades.timestamp, trades.trade_seq)), 1) as iv,
        max(trades.timestamp) as traded_at
    from {{ ref('trades') }} as trades
    where (trades.instrument_name, toStartOfDay(trades.timestamp)) in (
        select
            last_days.instrument_name,
            last_days.day
        from last_days
    )
    group by instrument_name
),

recent as (
    select
        recent_trades.instrument_name as instrument_name,
        argMin(recent_trades.price, (recent_trades.timestamp, recent_trades.trade_seq)) as open_24h,
        max(recent_trades.price) as high_24h,
        min(recent_trades.price) as low_24h,
        sum(recent_trades.volume) as volume_24h,
        sum(recent_trades.notional) as notional_24h,
        count() as trades_24h
    from {{ ref('trades') }} as recent_trades
    cross join now_is
    where
        recent_trades.timestamp > now_is.as_of - toIntervalHour(24)
        -- For the index: the newest day and the one before it hold the 24 hours.
        and toStartOfDay(recent_trades.timestamp) in (
            select arrayJoin([newest_day.day, newest_day.day - toIntervalDay(1)]) from newest_day
        )
    group by instrument_name
),

final as (
    select
        last_trades.instrument_name as instrument_name,
        last_trades.kind as kind,
        last_trades.underlying as underlying,
        last_trades.expiry as expiry,
        last_trades.price as price,
        last_trades.traded_at as traded_at,
        last_trades.trade_seq as trade_seq,
        last_trades.mark_price as mark_price,
        last_trades.index_price as index_price,
        last_trades.iv as iv,
        if(recent.trades_24h = 0, null, recent.high_24h) as high_24h,
        if(recent.trades_24h = 0, null, recent.low_24h) as low_24h,
        if(recent.trades_24h = 0 or recent.open_24h = 0, null, last_trades.price / recent.open_24h) - 1 as change_24h,
        recent.volume_24h as volume_24h,
        recent.notional_24h as notional_24h,
        recent.trades_24h as trades_24h,
        now_is.as_of as as_of
    from last_trades
    cross join now_is
    left join recent on last_trades.instrument_name = recent.instrument_name
    where last_trades.expiry is null or last_trades.expiry > now_is.as_of
)

select * from final
