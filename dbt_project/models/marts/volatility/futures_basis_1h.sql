-- One row per (instrument_name, bucket_at): basis of a dated future against the index of its last trade in the hour.
with

hours as (
    select
        *,
        {{ years_between('traded_at', "toDateTime64(expiry, 3, 'UTC')") }} as years
    from {{ ref('dated_future_hours') }}
),

final as (
    select
        instrument_name,
        bucket_at,
        {{ expiry_key() }},
        traded_at,
        price,
        index_price,
        years * 365 as days_to_expiry,
        toUInt16(arraySort(one -> abs(log(one / days_to_expiry)), [7, 30, 60, 90, 180, 365])[1]) as tenor_days,
        price / index_price - 1 as basis,
        basis / years as basis_annualised,
        log(price / index_price) / years as log_basis_annualised
    from hours
)

select * from final
