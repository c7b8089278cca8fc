-- One row per (day, tenor_days): mean implied volatility at constant maturities of inverse options, in percent.
with

final as (
    select
        toDate(bucket_at) as day,
        tenor_days,
        avg(atm_iv) as atm_volatility,
        avg(risk_reversal_25) as risk_reversal,
        count() as hours
    from {{ ref('iv_tenors_1h') }}
    where underlying = {{ analysis_underlying() }} and settlement_currency = {{ analysis_underlying() }}
    group by day, tenor_days
    order by day, tenor_days
)

select * from final
