-- One row per trade and version of it, until ClickHouse merges the older ones away. Readers use the view `trades`.
-- A run adds the load packages it has not seen, in whatever order they came.
{{
    config(
        materialized='incremental',
        incremental_strategy='append',
        engine='ReplacingMergeTree(version)',
        order_by=['instrument_name', 'trade_seq'],
        partition_by='toYYYYMM(timestamp)',
        indexes=[{'name': 'by_time', 'definition': 'timestamp type minmax granularity 1'}],
        pre_hook=["{{ claim_loads() }}", "{{ note_trade_moves() }}"],
        post_hook="{{ record_loads() }}"
    )
}}
-- The hooks write these:
-- depends_on: {{ ref('load_ledger') }} {{ ref('trade_moves') }}
with

claimed as (
    select * from {{ ref('stg_deribit__trades') }}
    where {{ is_claimed('load_id', 'trade_versions') }}
),

final as (
    select
        instrument_name,
        trade_seq,
        trade_id,
        timestamp,
        price,
        amount,
        direction,
        tick_direction,
        index_price,
        mark_price,
        iv,
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
        -- The newest load wins. Within one load a digest of the record decides, so that the winner is always the same.
        load_us * 4096 + cityHash64(tuple(
            timestamp, trade_id, price, amount, direction, index_price, mark_price, iv, legs, extra
        )) % 4096 as version
    from claimed
)

select * from final
