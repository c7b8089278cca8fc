-- One row per (underlying, settlement_currency, expiry, bucket_at, delta): implied volatility of an expiry by delta.
with

points as (
    select
        *,
        point
    from {{ ref('expiry_hours') }}
    array join [(-0.1, put_10_iv), (-0.25, put_25_iv), (0.5, atm_iv), (0.25, call_25_iv), (0.1, call_10_iv)] as point
),

final as (
    select
        {{ expiry_key() }},
        bucket_at,
        point.1 as delta,
        assumeNotNull(point.2) as iv,
        forward,
        forward_source,
        days_to_expiry,
        strikes
    from points
    where point.2 is not null
)

select * from final
