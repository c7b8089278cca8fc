-- One row per hour with liquidations: their number and volume in base coin, by side of the taker, for one underlying.
with

final as (
    select
        toStartOfHour(timestamp) as hour,
        count() as liquidations,
        coalesce(sumIf(volume, direction = 'buy'), 0) as bought_volume,
        coalesce(sumIf(volume, direction = 'sell'), 0) as sold_volume,
        max(toFloat64(volume)) as largest
    from {{ ref('trades') }}
    where is_liquidation and underlying = {{ analysis_underlying() }}
    group by hour
    order by hour
)

select * from final
