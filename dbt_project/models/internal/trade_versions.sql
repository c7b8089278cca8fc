-- One row per trade and version, until ClickHouse merges older versions away. Users query the view `trades`.
{{ config(materialized='refreshed_table', mend='mend_selected_trades') }}
{{ mended_from_raw() -}}
{{ require_complete_raw_history() -}}
with

{{ refreshed_trades() }},

-- A load package contains a trade once. If it ever has two versions of one, a digest decides.
repeated as (
    select cityHash64(load_id, instrument_name, trade_seq) as digest
    from {{ ref('stg_deribit__trades') }}
    where {{ is_refreshed() }}
    group by digest
    having count() > 1
),

final as (
    select
        instrument_name,
        trade_seq,
        {{ trade_id_prefix('trade_id') }} as trade_id_prefix,
        {{ trade_id_number('trade_id') }} as trade_id_number,
        timestamp,
        price,
        amount,
        direction,
        tick_direction,
        {{ decimal_places('index_price') }} as index_price_places,
        {{ decimal_digits('index_price', 'index_price_places') }} as index_price_digits,
        {{ decimal_places('mark_price') }} as mark_price_places,
        {{ decimal_digits('mark_price', 'mark_price_places') }} as mark_price_digits,
        {{ decimal_places('iv') }} as iv_places,
        {{ decimal_digits('iv', 'iv_places') }} as iv_digits,
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
        toUInt8(0) as is_moved,
        load_us * 4096 + if(
            cityHash64(load_id, instrument_name, trade_seq) in (select repeated.digest from repeated),
            cityHash64(tuple(
                trade_id, timestamp, price, amount, direction, tick_direction, index_price, mark_price, iv, contracts,
                liquidation, block_trade_id, block_trade_leg_count, block_rfq_id, combo_id, combo_trade_id, legs, extra
            )) % 4096,
            0
        ) as version
    from portion
)

select * from final
