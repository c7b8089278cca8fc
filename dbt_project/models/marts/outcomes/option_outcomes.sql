-- One row per expired option, whether or not it was traded or its delivery price is loaded.
with

{{ delivered_instruments('option') }},

traded as (
    select
        trades.instrument_name as instrument_name,
        argMax(tuple(trades.timestamp, trades.price, trades.iv), (trades.timestamp, trades.trade_seq)) as last_trade,
        count() as trade_count,
        sum({{ or_zero('trades.volume') }}) as volume,
        sum({{ or_zero('trades.notional') }}) as premium,
        sumIf({{ or_zero('trades.volume') }}, trades.direction = 'buy') * 2 - volume as taker_amount,
        sumIf({{ or_zero('trades.notional') }}, trades.direction = 'buy') * 2 - premium as taker_premium
    from {{ ref('trades') }} as trades
    where {{ is_option_trade('trades') }}
    group by instrument_name
),

valued as (
    select
        delivered.instrument_name as instrument_name,
        delivered.underlying as underlying,
        delivered.quote_currency as quote_currency,
        delivered.settlement_currency as settlement_currency,
        delivered.expires_at as expires_at,
        delivered.strike as strike,
        delivered.option_type as option_type,
        delivered.index_name as index_name,
        delivered.delivery_price as delivery_price,
        delivered.delivery_source as delivery_source,
        traded.trade_count as trade_count,
        traded.last_trade as last_trade,
        traded.volume as volume,
        traded.premium as premium,
        traded.taker_amount as taker_amount,
        traded.taker_premium as taker_premium,
        delivered.quote_currency = delivered.underlying as is_inverse,
        {{ intrinsic_value(
            possible_price('delivered.delivery_price'), possible_price('delivered.strike'), 'delivered.option_type'
        ) }} as intrinsic,
        {{ per_price('intrinsic', 'delivered.delivery_price') }} as coin,
        if(is_inverse, coin, toDecimal256(intrinsic, 24)) as exact_payoff
    from delivered
    left join traded on delivered.instrument_name = traded.instrument_name
),

final as (
    select
        instrument_name,
        underlying,
        quote_currency,
        settlement_currency,
        expires_at,
        strike,
        option_type,
        index_name,
        delivery_price,
        toLowCardinality(delivery_source) as delivery_source,
        {{ round_amount('coin') }} as intrinsic_coin,
        {{ round_amount('intrinsic') }} as intrinsic_usd,
        {{ round_amount('exact_payoff') }} as payoff,
        cast(intrinsic > 0 as Nullable(Bool)) as is_in_the_money,
        if(trade_count = 0, null, last_trade.2) as last_price,
        if(trade_count = 0, null, last_trade.3) as last_iv,
        if(trade_count = 0, null, last_trade.1) as last_traded_at,
        trade_count,
        volume,
        premium,
        taker_amount,
        taker_premium,
        {{ round_amount_or_null('exact_payoff * toDecimal256(taker_amount, 12)') }} as taker_payoff,
        {{ round_amount_or_null('exact_payoff * toDecimal256(taker_amount, 12) - taker_premium') }} as taker_result
    from valued
)

select * from final
