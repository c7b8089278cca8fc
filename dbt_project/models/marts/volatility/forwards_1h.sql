-- One row per (underlying, settlement_currency, expiry, bucket_at): the forward at the end of an hour with trades.
with

-- Observations are tuples: time, forward, index price.
futures as (
    select
        {{ expiry_key() }},
        bucket_at,
        tuple(traded_at, price, index_price) as future,
        {{ no_observation() }} as nearest_pair,
        tuple(traded_at, index_price, index_price) as newest
    from {{ ref('dated_future_hours') }}
),

-- The last call and the last put of each strike: (time, price, index price).
strikes as (
    select
        toLowCardinality(assumeNotNull(trades.underlying)) as underlying,
        toLowCardinality(assumeNotNull(trades.settlement_currency)) as settlement_currency,
        assumeNotNull(trades.expiry) as expiry,
        {{ hour_of('trades.timestamp') }} as bucket_at,
        assumeNotNull(trades.strike) as strike,
        argMaxIf(
            tuple(trades.timestamp, trades.price, assumeNotNull(trades.index_price)),
            {{ trade_place('trades') }}, trades.option_type = 'call'
        ) as last_call,
        argMaxIf(
            tuple(trades.timestamp, trades.price, assumeNotNull(trades.index_price)),
            {{ trade_place('trades') }}, trades.option_type = 'put'
        ) as last_put,
        greatest(last_call, last_put) as last_option
    from {{ ref('trades') }} as trades
    where {{ is_option_trade('trades') }} and trades.strike > 0 and {{ shows_market_price('trades') }}
    group by underlying, settlement_currency, expiry, bucket_at, strike
),

pairs as (
    select
        *,
        -- Seconds between the call and the put; the index moves in them.
        abs(dateDiff('millisecond', last_call.1, last_put.1)) / 1000 as seconds_apart,
        {{ parity_forward('last_call', 'last_put', 'strike', 'underlying = settlement_currency') }} as parity,
        last_call.2 > 0
        and last_put.2 > 0
        and seconds_apart <= {{ var('parity_max_seconds_apart') }}
        and parity / last_option.3 between 0.5 and 2 as is_pair
    from strikes
),

-- The pair whose trades are closest in time, and of those the one nearest to the money.
expiries as (
    select
        {{ expiry_key() }},
        bucket_at,
        {{ no_observation() }} as future,
        argMinIf(
            tuple(greatest(last_call.1, last_put.1), parity, last_option.3),
            (seconds_apart, abs(log(strike / last_option.3)), strike), is_pair
        ) as nearest_pair,
        max(tuple(last_option.1, last_option.3, last_option.3)) as newest
    from pairs
    group by {{ expiry_key() }}, bucket_at
),

observed as (
    select * from futures
    union all
    select * from expiries
),

merged as (
    select
        {{ expiry_key('observed') }},
        observed.bucket_at as bucket_at,
        max(observed.future) as future,
        max(observed.nearest_pair) as nearest_pair,
        max(observed.newest) as newest
    from observed
    group by {{ expiry_key() }}, bucket_at
),

chosen as (
    select
        *,
        multiIf(future.2 > 0, future, nearest_pair.2 > 0, nearest_pair, newest) as observation
    from merged
),

final as (
    select
        {{ expiry_key() }},
        bucket_at,
        observation.2 as forward,
        toLowCardinality(multiIf(future.2 > 0, 'future', nearest_pair.2 > 0, 'parity', 'index')) as forward_source,
        observation.1 as forward_at,
        dateDiff('millisecond', forward_at, bucket_at + toIntervalHour(1)) / 1000 as forward_age_seconds,
        observation.2 / observation.3 as forward_ratio,
        newest.3 as index_price
    from chosen
)

select * from final
