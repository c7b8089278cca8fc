-- Parameterized: the newest row of option_chain_1h at or before a time of each option of an underlying. Reads only
-- the options that were live in the last two days with a live option.
{{ config(materialized='parameterized_view', contract={'enforced': false}) }}
{%- set newest_hour = 'assumeNotNull((select newest_hour.hour from newest_hour))' %}
{%- set last_hour = 'least(' ~ newest_hour ~ ', ' ~ hour_of('expiry - toIntervalSecond(1)') ~ ')' %}
{%- set first_hour = '(select newest_options.hour from newest_options) - toIntervalDay(2)' -%}
with

ends as (
    select * from {{ latest_versions(ref('instrument_ends')) }}
),

newest_hour as (
    select least({{ hour_of('max(ends.last_at)') }}, {{ hour_of(chain_time()) }}) as hour from ends
),

options as (
    select
        instrument_name,
        {{ last_hour }} as bucket_at
    from ends
    where
        kind = 'option'
        and underlying = {{ chain_underlying() }}
        and first_at < least(expiry, {{ newest_hour }} + toIntervalHour(1))
),

newest_options as (
    select max(options.bucket_at) as hour from options
),

live_options as (
    select * from options
    where bucket_at > {{ first_hour }}
),

last_trades as (
    select
        {{ option_terms('trades') }},
        {{ last_option_trade('trades') }} as last_trade
    from {{ ref('trades') }} as trades
    where
        trades.instrument_name in (select live_options.instrument_name from live_options)
        and trades.timestamp < {{ newest_hour }} + toIntervalHour(1)
        and {{ is_before_expiry('trades') }}
    group by instrument_name, underlying, settlement_currency, expiry, strike, option_type
),

hours as (
    select
        *,
        {{ last_hour }} as bucket_at,
        toDateTime64(bucket_at + toIntervalHour(1), 3, 'UTC') as hour_end
    from last_trades
),

recent_forwards as (
    select * from {{ ref('forwards_1h') }}
    where
        underlying = {{ chain_underlying() }}
        -- A trade at the very end of the hour counts.
        and bucket_at <= {{ newest_hour }} + toIntervalHour(1)
        and bucket_at > {{ first_hour }} - toIntervalHour({{ var('forward_max_age_hours') }})
),

{{ option_chain('hours', forwards='recent_forwards') }}

select * from final
