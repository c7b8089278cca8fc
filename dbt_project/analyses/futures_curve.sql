-- One row per (day, tenor_days): mean annualised basis of the dated futures of an underlying, as a fraction.
with

final as (
    select
        toDate(bucket_at) as day,
        tenor_days,
        avg(basis_annualised) as mean_basis_annualised,
        count() as hours
    from {{ ref('futures_basis_1h') }}
    where underlying = {{ analysis_underlying() }}
    group by day, tenor_days
    order by day, tenor_days
)

select * from final
