-- One row per (underlying, source, day): implied volatility for 30 days, and its place in the 365 days until then.
with

days as (
    select
        volatility_index.currency as underlying,
        'dvol' as source,
        toDate(volatility_index.timestamp) as day,
        argMax(volatility_index.close, volatility_index.timestamp) as iv
    from {{ ref('volatility_index_1h') }} as volatility_index
    where {{ is_in_range('volatility_index.close') }}
    group by underlying, day
    union all
    select
        toString(tenors.underlying) as underlying,
        'trades' as source,
        toDate(tenors.bucket_at) as day,
        argMax(tenors.atm_iv, (tenors.bucket_at, tenors.settlement_currency = tenors.underlying)) as iv
    from {{ ref('iv_tenors_1h') }} as tenors
    where tenors.tenor_days = 30
    group by underlying, day
),

years as (
    select
        *,
        groupArray(iv) over (
            partition by underlying, source order by toInt32(day)
            range between 364 preceding and current row
        ) as year_ivs
    from days
),

final as (
    select
        underlying,
        toLowCardinality(source) as source,
        day,
        iv,
        arrayMin(year_ivs) as lowest_iv,
        arrayMax(year_ivs) as highest_iv,
        if(highest_iv > lowest_iv, 100 * (iv - lowest_iv) / (highest_iv - lowest_iv), null) as iv_rank,
        if(
            length(year_ivs) > 1,
            100 * arrayCount(one -> one < iv, year_ivs) / (length(year_ivs) - 1),
            null
        ) as iv_percentile,
        length(year_ivs) as days
    from years
)

select * from final
