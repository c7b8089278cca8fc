-- One row per (quote_currency, expiry, strike) of an underlying's live options: last prices of the call and the put,
-- as of `at`.
with

-- The names select their rows by the sort key of the trades.
live_options as (
    select ends.instrument_name from {{ ref('instrument_ends') }} as ends
    where ends.kind = 'option' and ends.underlying = {{ analysis_underlying() }} and ends.expiry > {{ analysis_time() }}
),

option_trades as (
    select * from {{ ref('trades') }}
    where
        kind = 'option'
        and instrument_name in (select live_options.instrument_name from live_options)
        and underlying = {{ analysis_underlying() }}
        and timestamp <= {{ analysis_time() }}
        and expiry > {{ analysis_time() }}
),

traded as (
    select
        trades.quote_currency as quote_currency,
        trades.expiry as expiry,
        trades.strike as strike,
        argMaxIf(tuple(trades.price, trades.iv), {{ trade_place('trades') }}, trades.option_type = 'call') as last_call,
        argMaxIf(tuple(trades.price, trades.iv), {{ trade_place('trades') }}, trades.option_type = 'put') as last_put,
        countIf(trades.option_type = 'call') as calls,
        countIf(trades.option_type = 'put') as puts,
        max(trades.timestamp) as traded_at
    from option_trades as trades
    group by quote_currency, expiry, strike
),

final as (
    select
        quote_currency,
        expiry,
        strike,
        if(calls = 0, null, last_call.1) as call_price,
        last_call.2 as call_iv,
        if(puts = 0, null, last_put.1) as put_price,
        last_put.2 as put_iv,
        traded_at
    from traded
    order by quote_currency, expiry, strike
)

select * from final
