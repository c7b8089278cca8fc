-- One row per (underlying, settlement_currency, bucket_at, tenor_days): implied volatility at a constant maturity,
-- interpolated in total variance between the expiries that were traded in the hour.
with

-- Each point is (days to expiry, total variance).
grouped as (
    select
        hours.underlying as underlying,
        hours.settlement_currency as settlement_currency,
        hours.bucket_at as bucket_at,
        {{ variance_points('hours.atm_iv', 'hours.days_to_expiry') }} as atm_points,
        {{ variance_points('hours.put_25_iv', 'hours.days_to_expiry') }} as put_25_points,
        {{ variance_points('hours.call_25_iv', 'hours.days_to_expiry') }} as call_25_points
    from {{ ref('expiry_hours') }} as hours
    where hours.days_to_expiry > 0
    group by underlying, settlement_currency, bucket_at
),

tenors as (
    select
        *,
        tenor_days,
        {{ neighbours(['atm_points', 'put_25_points', 'call_25_points'], ['tenor_days'] * 3) }} as neighbours
    from grouped
    array join [7, 30, 60, 90, 180] as tenor_days
),

interpolated as (
    select
        *,
        {{ interpolated('neighbours') }} as variances
    from tenors
),

volatilities as (
    select
        *,
        {{ volatility_of('variances[1]', 'tenor_days') }} as atm_volatility,
        {{ volatility_of('variances[2]', 'tenor_days') }} as put_25_iv,
        {{ volatility_of('variances[3]', 'tenor_days') }} as call_25_iv
    from interpolated
),

final as (
    select
        underlying,
        settlement_currency,
        bucket_at,
        toUInt16(tenor_days) as tenor_days,
        assumeNotNull(atm_volatility) as atm_iv,
        put_25_iv,
        call_25_iv,
        call_25_iv - put_25_iv as risk_reversal_25,
        (call_25_iv + put_25_iv) / 2 - atm_volatility as butterfly_25,
        length(atm_points) as expiries
    from volatilities
    where atm_volatility is not null
)

select * from final
