-- One row per expiry of inverse options: how many paid, the premium of all trades and the result of takers, in coin.
with

final as (
    select
        expires_at,
        count() as options,
        countIf(is_in_the_money) as paid_options,
        sum(premium) as total_premium,
        coalesce(sum(taker_result), 0) as total_taker_result
    from {{ ref('option_outcomes') }}
    where underlying = {{ analysis_underlying() }} and settlement_currency = {{ analysis_underlying() }}
    group by expires_at
    order by expires_at
)

select * from final
