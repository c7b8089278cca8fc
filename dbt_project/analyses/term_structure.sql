-- One row per expiry: implied volatility, in percent, of the strike nearest to the index, in the day before `at`.
with

option_trades as (
    select * from {{ ref('trades') }}
    where
        kind = 'option'
        and underlying = {{ analysis_underlying() }}
        and iv > 0
        and timestamp <= {{ analysis_time() }}
        and timestamp > {{ analysis_time() }} - toIntervalDay(1)
        and expiry > {{ analysis_time() }}
),

nearest as (
    select
        expiry,
        argMin(strike, (abs(strike - index_price), strike)) as strike
    from option_trades
    group by expiry
),

final as (
    select
        option_trades.expiry as expiry,
        (toUnixTimestamp(option_trades.expiry) - toUnixTimestamp({{ analysis_time() }})) / 86400 as days_left,
        any(option_trades.strike) as strike,
        avgWeighted(option_trades.iv, toFloat64(option_trades.volume)) as iv,
        count() as trade_count
    from option_trades
    inner join nearest on option_trades.expiry = nearest.expiry and option_trades.strike = nearest.strike
    group by expiry
    order by expiry
)

select * from final
