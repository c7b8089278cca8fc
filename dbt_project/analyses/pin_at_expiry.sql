-- One row per expiry of inverse options: distance of the delivery price from the nearest and from the busiest strike.
with

strikes as (
    select
        expires_at,
        assumeNotNull(strike) as strike,
        any(assumeNotNull(delivery_price)) as delivered_at,
        sum(volume) as traded
    from {{ ref('option_outcomes') }}
    where
        underlying = {{ analysis_underlying() }}
        and settlement_currency = {{ analysis_underlying() }}
        and delivery_price is not null
    group by expires_at, strike
),

final as (
    select
        expires_at,
        any(delivered_at) as delivered,
        argMin(strike, (abs(strike - delivered_at), strike)) as nearest_strike,
        delivered / nearest_strike - 1 as distance,
        argMax(strike, (traded, strike)) as busiest_strike,
        delivered / busiest_strike - 1 as distance_of_busiest
    from strikes
    group by expires_at
    order by expires_at
)

select * from final
