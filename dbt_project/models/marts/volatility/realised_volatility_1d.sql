-- One row per (instrument_name, day): volatility of a future, perpetual or spot pair, from its hours with trades of the
-- order book.
with

hours as (
    select
        candles.instrument_name as instrument_name,
        candles.bucket_at as bucket_at,
        assumeNotNull(candles.book_close) as close,
        -- A range needs positive prices.
        if(
            {{ is_possible_price('candles.book_low') }} and {{ is_possible_price('candles.book_high') }},
            assumeNotNull(log(candles.book_high / candles.book_low)),
            0
        ) as log_range,
        lagInFrame(assumeNotNull(candles.book_close)) over hour_order as previous_close,
        lagInFrame(candles.bucket_at) over hour_order as previous_at
    from {{ ref('ohlcv_1h') }} as candles
    where candles.kind in ('future', 'spot') and candles.book_trade_count > 0
    window hour_order as (
        partition by candles.instrument_name order by candles.bucket_at rows between unbounded preceding and current row
    )
),

returns as (
    select
        *,
        {{ is_possible_price('previous_close') }} and {{ is_possible_price('close') }} as has_return,
        if(has_return, log(close / previous_close), 0) as log_return,
        if(has_return, dateDiff('hour', previous_at, bucket_at), 0) as hours_elapsed
    from hours
),

days as (
    select
        returns.instrument_name as instrument_name,
        toDate(returns.bucket_at) as day,
        argMax(returns.close, returns.bucket_at) as close,
        count() as hours,
        toInt64(countIf(returns.has_return)) as returns,
        toInt64(sum(returns.hours_elapsed)) as hours_elapsed,
        sum(returns.log_return * returns.log_return) as squares,
        sum(returns.log_range * returns.log_range) as squared_ranges
    from returns
    group by instrument_name, day
),

final as (
    select
        instrument_name,
        day,
        close,
        hours,
        returns,
        {{ annualised('squares', 'hours_elapsed') }} as volatility_1d,
        {{ annualised('sum(squares) over days_7', 'sum(hours_elapsed) over days_7') }} as volatility_7d,
        {{ annualised('sum(squares) over days_30', 'sum(hours_elapsed) over days_30') }} as volatility_30d,
        {{ annualised('sum(squares) over days_90', 'sum(hours_elapsed) over days_90') }} as volatility_90d,
        -- Parkinson's estimate from the range of each hour.
        {{ annualised('sum(squared_ranges) over days_30 / 4 / log(2)', 'sum(hours) over days_30') }} as parkinson_30d
    from days
    window
        days_7 as (
            partition by instrument_name order by toInt32(day) range between 6 preceding and current row
        ),
        days_30 as (
            partition by instrument_name order by toInt32(day) range between 29 preceding and current row
        ),
        days_90 as (
            partition by instrument_name order by toInt32(day) range between 89 preceding and current row
        )
)

select * from final
