-- One row per (day, source): 30-day implied volatility, the volatility that was realised in the 30 days until then, and
-- the difference, in percent points.
with

final as (
    select
        implied.day as day,
        implied.source as source,
        implied.iv as iv,
        realised.volatility_30d as realised_volatility,
        implied.iv - realised.volatility_30d as premium
    from {{ ref('iv_rank_1d') }} as implied
    inner join {{ ref('realised_volatility_1d') }} as realised on implied.day = realised.day
    where
        implied.underlying = {{ analysis_underlying() }}
        and realised.instrument_name = '{{ var('instrument_name', 'BTC-PERPETUAL') }}'
    order by day, source
)

select * from final
