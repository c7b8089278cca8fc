-- One row per day: realised volatility of an instrument in percent a year, from the closes of its hours with trades of
-- the order book.
with

hours as (
    select
        bucket_at,
        log(book_close / lagInFrame(book_close) over (order by bucket_at)) as log_return,
        row_number() over (order by bucket_at) as place
    from {{ ref('ohlcv_1h') }}
    where instrument_name = '{{ var('instrument_name', 'BTC-PERPETUAL') }}' and book_trade_count > 0
),

final as (
    select
        toDate(bucket_at) as day,
        count() as returns,
        100 * sqrt(sum(log_return * log_return) / returns * 24 * 365) as realised_volatility
    from hours
    where place > 1
    group by day
    order by day
)

select * from final
