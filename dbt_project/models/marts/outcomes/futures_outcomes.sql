-- One row per expired future, whether or not it was traded or its delivery price is loaded.
with

{{ delivered_instruments('future') }},

traded as (
    select
        trades.instrument_name as instrument_name,
        argMax(tuple(trades.timestamp, trades.price), (trades.timestamp, trades.trade_seq)) as last_trade,
        count() as trade_count,
        sum({{ or_zero('trades.volume') }}) as volume,
        sum({{ or_zero('trades.notional') }}) as notional,
        sumIf({{ or_zero('trades.volume') }}, trades.direction = 'buy') * 2 - volume as taker_volume,
        sumIf({{ or_zero('trades.notional') }}, trades.direction = 'buy') * 2 - notional as taker_notional
    from {{ ref('trades') }} as trades
    where trades.kind = 'future' and trades.instrument_name in (select expired.instrument_name from expired)
    group by instrument_name
),

valued as (
    select
        delivered.instrument_name as instrument_name,
        delivered.underlying as underlying,
        delivered.quote_currency as quote_currency,
        delivered.settlement_currency as settlement_currency,
        delivered.expires_at as expires_at,
        delivered.index_name as index_name,
        delivered.delivery_price as delivery_price,
        delivered.delivery_source as delivery_source,
        traded.trade_count as trade_count,
        traded.last_trade as last_trade,
        traded.volume as volume,
        traded.notional as notional,
        traded.taker_volume as taker_volume,
        traded.taker_notional as taker_notional,
        delivered.quote_currency = 'USD' as is_inverse,
        -- In coin of inverse futures, whose takers bought coin for USD; in the quote currency of linear ones.
        if(
            is_inverse,
            toDecimal256(traded.taker_volume, 24)
            - {{ per_price('traded.taker_notional', 'delivered.delivery_price') }},
            toDecimal256(traded.taker_volume, 12) * {{ to_exact_decimal(possible_price('delivered.delivery_price')) }}
            - traded.taker_notional
        ) as exact_result
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
        index_name,
        delivery_price,
        toLowCardinality(delivery_source) as delivery_source,
        if(trade_count = 0, null, last_trade.2) as last_price,
        if(trade_count = 0, null, last_trade.1) as last_traded_at,
        {{ possible_price('last_price') }} / {{ possible_price('delivery_price') }} - 1 as last_basis,
        trade_count,
        volume,
        notional,
        {{ round_amount_or_null('exact_result') }} as taker_result
    from valued
)

select * from final
