-- One row per (instrument_name, day): the funding that a perpetual charged for the hours of a day.
with

hours as (
    select
        instrument_name,
        -- The hour that ends at midnight belongs to the day before.
        toDate(timestamp - toIntervalHour(1)) as day,
        interest_1h,
        index_price
    from {{ ref('funding_1h') }}
),

final as (
    select
        instrument_name,
        day,
        {{ exact_sum('interest_1h') }} as funding,
        {{ exact_sum('if(index_price > 0, interest_1h / assumeNotNull(index_price), 0)') }} as funding_per_usd,
        funding * 365 as funding_annualised,
        count() as hours,
        cast(count() = 24 as Bool) as is_complete
    from hours
    group by instrument_name, day
)

select * from final
