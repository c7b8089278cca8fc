-- One row per option trade: its Greeks by Black-76, from its implied volatility and the forward of its expiry.
with

option_trades as (
    select
        trades.instrument_name as instrument_name,
        trades.trade_seq as trade_seq,
        trades.timestamp as timestamp,
        toLowCardinality(assumeNotNull(trades.underlying)) as underlying,
        toLowCardinality(assumeNotNull(trades.settlement_currency)) as settlement_currency,
        assumeNotNull(trades.expiry) as expiry,
        assumeNotNull(trades.strike) as strike,
        toLowCardinality(assumeNotNull(trades.option_type)) as option_type,
        trades.direction as direction,
        trades.price as price,
        trades.amount as amount,
        trades.mark_price as mark_price,
        trades.index_price as index_price,
        trades.iv as iv
    from {{ ref('trades') }} as trades
    where {{ is_option_trade('trades') }} and trades.option_type is not null and trades.strike is not null
),

{{ with_forwards(
    'option_trades', 'timestamp',
    [
        'instrument_name', 'trade_seq', 'timestamp', 'strike', 'option_type', 'direction', 'price', 'amount',
        'mark_price', 'iv'
    ],
    'index_price'
) }},

{{ option_greeks('with_forward', 'timestamp') }},

final as (
    select
        instrument_name,
        trade_seq,
        timestamp,
        {{ expiry_key() }},
        strike,
        option_type,
        direction,
        price,
        amount,
        mark_price,
        index_price,
        iv,
        forward,
        forward_source,
        forward_age_seconds,
        {{ greek_columns() }}
    from priced
)

select * from final
