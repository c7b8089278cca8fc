-- One row per (expiry, strike): open interest of calls and puts on the newest recorded day, in base coin.
with

options as (
    select * from {{ ref('open_interest_1d') }}
    where underlying = {{ analysis_underlying() }} and option_type is not null
),

final as (
    select
        expiry,
        strike,
        coalesce(sumIf(open_interest, option_type = 'call'), 0) as calls,
        coalesce(sumIf(open_interest, option_type = 'put'), 0) as puts
    from options
    where day = (select max(days.day) from options as days)
    group by expiry, strike
    order by expiry, strike
)

select * from final
