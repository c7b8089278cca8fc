-- One row per expiry: volume of puts and calls of a day, in base coin, and the put/call ratio.
with

final as (
    select
        expiry,
        coalesce(sumIf(volume, option_type = 'put'), 0) as put_volume,
        coalesce(sumIf(volume, option_type = 'call'), 0) as call_volume,
        toFloat64(put_volume) / nullIf(toFloat64(call_volume), 0) as put_call_ratio
    from {{ ref('trades') }}
    where kind = 'option' and underlying = {{ analysis_underlying() }} and {{ is_on_day('timestamp') }}
    group by expiry
    order by expiry
)

select * from final
