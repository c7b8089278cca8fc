-- One row per (instrument_name, bucket_at): what a live option last traded at, at the end of each hour.
with

ends as (
    select * from {{ latest_versions(ref('instrument_ends')) }}
),

newest_hour as (
    select {{ hour_of('max(ends.last_at)') }} as hour from ends
),

traded_hours as (
    select
        {{ option_terms('trades') }},
        {{ hour_of('trades.timestamp') }} as traded_hour,
        {{ last_option_trade('trades') }} as last_trade
    from {{ ref('trades') }} as trades
    where
        {{ is_option_trade('trades') }}
        and {{ is_before_expiry('trades') }}
    group by instrument_name, underlying, settlement_currency, expiry, strike, option_type, traded_hour
),

-- A trade counts until the next hour with a trade, the expiry, or the newest hour of all trades.
followed_hours as (
    select
        *,
        leadInFrame(
            traded_hour, 1, least(expiry, assumeNotNull((select newest_hour.hour from newest_hour)) + toIntervalHour(1))
        ) over (
            partition by instrument_name order by traded_hour
            rows between unbounded preceding and unbounded following
        ) as next_hour
    from traded_hours
),

hours as (
    select
        *,
        toDateTime(hour, 'UTC') as bucket_at,
        toDateTime64(hour + 3600, 3, 'UTC') as hour_end
    from followed_hours
    array join range(toUnixTimestamp(traded_hour), toUnixTimestamp(next_hour), 3600) as hour
),

{{ option_chain('hours') }}

select * from final
