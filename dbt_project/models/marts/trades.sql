-- One row per (instrument_name, trade_seq): every trade in its newest version, deduplicated at read time.
with

latest as (
    select * from {{ latest_versions(ref('trade_versions')) }}
),

final as (
    select
        instrument_name,
        trade_seq,
        {{ trade_id('trade_id_prefix', 'trade_id_number') }} as trade_id,
        timestamp,
        price,
        amount,
        direction,
        tick_direction,
        {{ decimal_number('index_price_digits', 'index_price_places') }} as index_price,
        {{ decimal_number('mark_price_digits', 'mark_price_places') }} as mark_price,
        {{ decimal_number('iv_digits', 'iv_places') }} as iv,
        contracts,
        liquidation,
        block_trade_id,
        block_trade_leg_count,
        block_rfq_id,
        combo_id,
        combo_trade_id,
        legs,
        extra,
        currency,
        kind,
        underlying,
        quote_currency,
        settlement_currency,
        expiry,
        strike,
        option_type,
        cast(block_trade_id is not null as Bool) as is_block,
        cast(kind in ('future_combo', 'option_combo') as Bool) as is_combo,
        cast(not is_combo and combo_id is not null as Bool) as is_combo_leg,
        cast(liquidation is not null as Bool) as is_liquidation,
        {{ trade_volume() }} as volume,
        {{ trade_notional() }} as notional,
        fromUnixTimestamp64Micro(toInt64(intDiv(version, 4096)), 'UTC') as loaded_at
    from latest
)

select * from final
