-- One row per (underlying, source): the newest 30-day implied volatility and its place in 365 days, in percent.
with

final as (
    select
        underlying,
        source,
        max(day) as newest_day,
        argMax(iv, day) as newest_iv,
        argMax(iv_rank, day) as newest_rank,
        argMax(iv_percentile, day) as newest_percentile
    from {{ ref('iv_rank_1d') }}
    group by underlying, source
    order by underlying, source
)

select * from final
