-- One row per (month, perpetual): funding that a long position paid, as a fraction and annualised, and the mean basis.
with

final as (
    select
        toStartOfMonth(day) as month,
        instrument_name,
        sum(funding) as paid,
        paid / sum(funding_hours) * 24 * 365 as paid_annualised,
        avg(mean_basis) as basis,
        sum(funding_hours) as hours
    from {{ ref('perpetual_carry_1d') }}
    group by month, instrument_name
    order by month, instrument_name
)

select * from final
