-- One row per strike of one expiry: volume of calls and puts of a day, in base coin, and the volume of block trades.
with

final as (
    select
        strike,
        coalesce(sumIf(volume, option_type = 'call'), 0) as call_volume,
        coalesce(sumIf(volume, option_type = 'put'), 0) as put_volume,
        coalesce(sumIf(volume, is_block), 0) as block_volume,
        count() as trade_count
    from {{ ref('trades') }}
    where
        kind = 'option'
        and underlying = {{ analysis_underlying() }}
        and expiry = {{ analysis_expiry() }}
        and {{ is_on_day('timestamp') }}
    group by strike
    order by strike
)

select * from final
