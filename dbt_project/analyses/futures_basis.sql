-- One row per live dated future: basis of its last price in the day before `at` against the index of that trade,
-- also annualised.
with

future_trades as (
    select * from {{ ref('trades') }}
    where
        kind = 'future'
        and underlying = {{ analysis_underlying() }}
        and index_price > 0
        and timestamp <= {{ analysis_time() }}
        and timestamp > {{ analysis_time() }} - toIntervalDay(1)
        and expiry > {{ analysis_time() }}
),

final as (
    select
        instrument_name,
        any(expiry) as expires_at,
        max(timestamp) as traded_at,
        argMax(price, (timestamp, trade_seq)) as last_price,
        argMax(index_price, (timestamp, trade_seq)) as last_index,
        last_price / last_index - 1 as basis,
        basis * 365 * 86400 / (toUnixTimestamp(expires_at) - toUnixTimestamp(traded_at)) as basis_a_year
    from future_trades
    group by instrument_name
    order by expires_at, instrument_name
)

select * from final
