-- One row per (underlying, settlement_currency, expiry, bucket_at): forward and smile of an expiry at the end of an
-- hour in which it was traded.
with

final as (
    select
        * except (trade_count, version),
        (toUnixTimestamp(expiry) - toUnixTimestamp(bucket_at) - 3600) / 86400 as days_to_expiry
    from {{ latest_versions(ref('expiry_hours_versions')) }}
    where trade_count > 0
)

select * from final
