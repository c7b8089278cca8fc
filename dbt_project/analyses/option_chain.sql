-- One row per (quote_currency, expiry, strike) of an underlying's live options: last prices of the call and the put,
-- as of `at`.
with

option_trades as (
    select * from {{ ref('trades') }}
    where
        kind = 'option'
        and underlying = {{ analysis_underlying() }}
        and timestamp <= {{ analysis_time() }}
        and expiry > {{ analysis_time() }}
),

final as (
    select
        quote_currency,
        expiry,
        strike,
        argMaxOrNullIf(price, (timestamp, trade_seq), option_type = 'call') as call_price,
        argMaxOrNullIf(iv, (timestamp, trade_seq), option_type = 'call') as call_iv,
        argMaxOrNullIf(price, (timestamp, trade_seq), option_type = 'put') as put_price,
        argMaxOrNullIf(iv, (timestamp, trade_seq), option_type = 'put') as put_iv,
        max(timestamp) as traded_at
    from option_trades
    group by quote_currency, expiry, strike
    order by quote_currency, expiry, strike
)

select * from final
