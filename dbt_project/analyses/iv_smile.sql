-- One row per strike of one expiry: implied volatility of a day, in percent, weighted by volume,
-- against strike / index.
with

final as (
    select
        option_trades.strike as strike,
        avgWeighted(option_trades.strike / option_trades.index_price, toFloat64(option_trades.volume)) as moneyness,
        avgWeighted(option_trades.iv, toFloat64(option_trades.volume)) as iv,
        count() as trade_count
    from {{ ref('trades') }} as option_trades
    where
        option_trades.kind = 'option'
        and option_trades.underlying = {{ analysis_underlying() }}
        and option_trades.expiry = {{ analysis_expiry() }}
        and {{ is_on_day('option_trades.timestamp') }}
        and option_trades.iv > 0
        and option_trades.index_price > 0
    group by strike
    order by strike
)

select * from final
