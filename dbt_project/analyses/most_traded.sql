-- One row per instrument of a day, by descending value traded in USD, at the index of each trade.
-- Combos are counted by their legs.
with

final as (
    select
        trades.instrument_name as instrument_name,
        count() as trade_count,
        sum(trades.volume) as volume,
        sum(toFloat64(trades.volume) * trades.index_price) as usd_value
    from {{ ref('trades') }} as trades
    where not trades.is_combo and {{ is_on_day('trades.timestamp') }}
    group by instrument_name
    order by usd_value desc, instrument_name asc
    limit {{ var('limit', 20) }}
)

select * from final
