-- One row per (currency, timestamp): the volatility index by hour, from hourly candles, else from minutes.
with

{{ newest_rows(
    ref('stg_deribit__volatility_index'),
    key=['currency', 'resolution', 'timestamp'],
    columns=['open', 'high', 'low', 'close']
) }},

hours as (
    select
        newest.currency as currency,
        newest.resolution as resolution,
        toDateTime64(toStartOfHour(newest.timestamp), 3, 'UTC') as hour,
        argMin(newest.open, newest.timestamp) as open,
        max(newest.high) as high,
        min(newest.low) as low,
        argMax(newest.close, newest.timestamp) as close
    from newest
    where newest.resolution in ('60', '3600')
    group by currency, resolution, hour
),

preferred as (
    select
        hours.currency as currency,
        hours.hour as hour,
        argMax(
            tuple(hours.resolution, hours.open, hours.high, hours.low, hours.close), toUInt32(hours.resolution)
        ) as chosen
    from hours
    group by currency, hour
),

final as (
    select
        currency,
        chosen.1 as resolution,
        hour as timestamp,
        chosen.2 as open,
        chosen.3 as high,
        chosen.4 as low,
        chosen.5 as close
    from preferred
)

select * from final
