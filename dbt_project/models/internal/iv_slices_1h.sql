-- One row per (underlying, settlement_currency, expiry, bucket_at): implied volatility of an expiry at the money and at
-- four deltas, from the options that were traded in the hour.
with

option_hours as (
    select
        toLowCardinality(assumeNotNull(trades.underlying)) as underlying,
        toLowCardinality(assumeNotNull(trades.settlement_currency)) as settlement_currency,
        assumeNotNull(trades.expiry) as expiry,
        {{ hour_of('trades.timestamp') }} as bucket_at,
        assumeNotNull(trades.strike) as strike,
        toLowCardinality(assumeNotNull(trades.option_type)) as option_type,
        argMax(
            tuple(trades.timestamp, assumeNotNull(trades.iv), assumeNotNull(trades.index_price)),
            {{ trade_place('trades') }}
        ) as last_trade
    from {{ ref('trades') }} as trades
    where
        {{ is_option_trade('trades') }}
        and trades.strike > 0
        and trades.option_type is not null
        and trades.iv between {{ var('smile_min_iv') }} and {{ var('smile_max_iv') }}
        and {{ shows_market_price('trades') }}
    group by {{ expiry_key() }}, bucket_at, strike, option_type
),

-- Options and forward of an expiry are grouped and not joined, so that a filter on the hour reaches the trades.
collected as (
    select
        {{ expiry_key('option_hours') }},
        option_hours.bucket_at as bucket_at,
        groupArray(
            tuple(option_hours.strike, toString(option_hours.option_type), option_hours.last_trade)
        ) as options,
        tuple(0.0, '', 0.0) as hour_forward
    from option_hours
    group by {{ expiry_key() }}, bucket_at
    union all
    select
        {{ expiry_key() }},
        bucket_at,
        [] as options,
        tuple(forward, toString(forward_source), forward_ratio) as hour_forward
    from {{ ref('forwards_1h') }}
),

merged as (
    select
        {{ expiry_key('collected') }},
        collected.bucket_at as bucket_at,
        groupArrayArray(collected.options) as options,
        max(collected.hour_forward) as hour_forward
    from collected
    group by {{ expiry_key() }}, bucket_at
),

with_forward as (
    select
        {{ expiry_key() }},
        bucket_at,
        one.1 as strike,
        one.2 as option_type,
        one.3.1 as traded_at,
        one.3.2 as iv,
        one.3.3 * hour_forward.3 as forward,
        hour_forward,
        {{ years_between('one.3.1', "toDateTime64(expiry, 3, 'UTC')") }} as years
    from merged
    array join options as one
    where hour_forward.3 > 0
),

terms as (
    select
        *,
        {{ black76_terms('forward', 'strike', 'iv', 'years') }}
    from with_forward
),

-- Of a call and a put with the same strike, the one out of the money counts, because its price is mostly volatility.
strikes as (
    select
        {{ expiry_key('terms') }},
        terms.bucket_at as bucket_at,
        any(terms.hour_forward) as hour_forward,
        terms.strike as strike,
        argMax(
            tuple(log(terms.strike / terms.forward), {{ normal_cdf('assumeNotNull(terms.d1)') }}, terms.iv),
            ((terms.option_type = 'call') = (terms.strike >= terms.forward), terms.traded_at, terms.option_type)
        ) as point
    from terms
    group by {{ expiry_key() }}, bucket_at, strike
),

points as (
    select
        {{ expiry_key('strikes') }},
        strikes.bucket_at as bucket_at,
        any(strikes.hour_forward) as hour_forward,
        arraySort(groupArray(tuple(strikes.point.1, strikes.point.3))) as by_moneyness,
        arraySort(groupArray(tuple(strikes.point.2, strikes.point.3))) as by_call_delta
    from strikes
    group by {{ expiry_key() }}, bucket_at
),

-- A put of delta -0.25 has the strike of the call of delta 0.75.
interpolated as (
    select
        *,
        {{ interpolated('atm_iv', 'by_moneyness', '0') }},
        {{ interpolated('put_10_iv', 'by_call_delta', '0.9') }},
        {{ interpolated('put_25_iv', 'by_call_delta', '0.75') }},
        {{ interpolated('call_25_iv', 'by_call_delta', '0.25') }},
        {{ interpolated('call_10_iv', 'by_call_delta', '0.1') }}
    from points
),

final as (
    select
        {{ expiry_key() }},
        bucket_at,
        hour_forward.1 as forward,
        toLowCardinality(hour_forward.2) as forward_source,
        (toUnixTimestamp(expiry) - toUnixTimestamp(bucket_at) - 3600) / 86400 as days_to_expiry,
        length(by_moneyness) as strikes,
        atm_iv,
        put_10_iv,
        put_25_iv,
        call_25_iv,
        call_10_iv
    from interpolated
)

select * from final
