-- One row per (day, underlying, kind): volume in base coin and the share of it that was traded in blocks.
-- Combos are counted by their legs.
with

final as (
    select
        toDate(days.bucket_at) as day,
        days.underlying as underlying,
        days.kind as kind,
        sum(days.volume) as volume,
        sum(days.block_volume) as block_volume,
        toFloat64(block_volume) / nullIf(toFloat64(volume), 0) as block_share
    from {{ ref('ohlcv_1d') }} as days
    where days.kind not in ('future_combo', 'option_combo')
    group by day, underlying, kind
    order by day, underlying, kind
)

select * from final
