-- One row per day of the `days` until `at`: Greeks that takers bought net in options of an underlying; delta in coin,
-- gamma in coin per USD, vega and theta in USD.
with

signed as (
    select
        *,
        if(direction = 'buy', amount, -amount) as signed_amount
    from {{ ref('trade_greeks') }}
    where
        underlying = {{ analysis_underlying() }}
        and timestamp > {{ analysis_time() }} - toIntervalDay({{ var('days', 30) }})
        and timestamp <= {{ analysis_time() }}
),

final as (
    select
        toDate(timestamp) as day,
        sum(signed_amount * delta) as net_delta,
        sum(signed_amount * gamma) as net_gamma,
        sum(signed_amount * vega) as net_vega,
        sum(signed_amount * theta) as net_theta,
        count() as trade_count
    from signed
    group by day
    order by day
)

select * from final
