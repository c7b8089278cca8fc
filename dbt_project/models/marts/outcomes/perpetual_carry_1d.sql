-- One row per (instrument_name, day): funding of a perpetual, and its basis against the index at the ends of hours,
-- without block trades and legs of combos, because their prices are agreed.
with

-- A candle of an hour closes when the funding of the hour is charged.
candles as (
    select
        instrument_name,
        assumeNotNull(book_close) as close,
        toDateTime64(bucket_at + toIntervalHour(1), 3, 'UTC') as timestamp
    from {{ ref('ohlcv_1h') }}
    where kind = 'future' and book_trade_count > 0
),

hours as (
    select
        funding_rates.instrument_name as instrument_name,
        toDate(funding_rates.timestamp - toIntervalHour(1)) as day,
        funding_rates.timestamp as timestamp,
        candles.close as close,
        assumeNotNull(funding_rates.index_price) as index_price,
        candles.close / assumeNotNull(funding_rates.index_price) - 1 as basis
    from {{ ref('funding_1h') }} as funding_rates
    inner join candles
        on funding_rates.instrument_name = candles.instrument_name and funding_rates.timestamp = candles.timestamp
    where {{ is_possible_price('candles.close') }} and {{ is_possible_price('funding_rates.index_price') }}
),

bases as (
    select
        hours.instrument_name as instrument_name,
        hours.day as day,
        avg(hours.basis) as mean_basis,
        argMax(hours.basis, hours.timestamp) as last_basis,
        argMax(hours.close, hours.timestamp) as last_close,
        argMax(hours.index_price, hours.timestamp) as last_index_price,
        count() as traded_hours
    from hours
    group by instrument_name, day
),

final as (
    select
        days.instrument_name as instrument_name,
        days.day as day,
        days.funding as funding,
        days.funding_annualised as funding_annualised,
        days.hours as funding_hours,
        if(bases.traded_hours = 0, null, bases.mean_basis) as mean_basis,
        if(bases.traded_hours = 0, null, bases.last_basis) as last_basis,
        if(bases.traded_hours = 0, null, bases.last_close) as close,
        if(bases.traded_hours = 0, null, bases.last_index_price) as index_price,
        bases.traded_hours as basis_hours
    from {{ ref('funding_1d') }} as days
    left join bases on days.instrument_name = bases.instrument_name and days.day = bases.day
)

select * from final
