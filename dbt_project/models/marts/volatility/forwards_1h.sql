-- One row per (underlying, settlement_currency, expiry, bucket_at): the forward at the end of an hour with trades.
with

final as (
    select
        {{ expiry_key() }},
        bucket_at,
        forward,
        forward_source,
        forward_at,
        dateDiff('millisecond', forward_at, bucket_at + toIntervalHour(1)) / 1000 as forward_age_seconds,
        forward_ratio,
        index_price
    from {{ ref('expiry_hours') }}
)

select * from final
