-- One row per (instrument_name, trade_seq): every trade in its newest version, deduplicated at read time.
{{ built_after('consumed_loads', 'pending_portions', 'refresh_settled_moves') -}}
with

-- A trade that is restated at another time has a row at each. Until the older one is merged, or marked if it is in
-- another month, a query may see it alone, because ClickHouse leaves out parts by their times before FINAL.
moving as (
    select
        instrument_name,
        trade_seq
    from {{ latest_versions(ref('moved_trades')) }}
    where not is_settled
),

newest_of_moving as (
    select
        instrument_name,
        trade_seq,
        max((version, toYYYYMM(timestamp))) as newest
    from {{ ref('trade_versions').render() }}
    where
        not is_moved
        and (instrument_name, trade_seq) in (
            select
                moving.instrument_name,
                moving.trade_seq
            from moving
        )
    group by instrument_name, trade_seq
),

latest as (
    select * from {{ latest_versions(ref('trade_versions')) }}
    where
        (instrument_name, trade_seq) not in (
            select
                moving.instrument_name,
                moving.trade_seq
            from moving
        )
        or (instrument_name, trade_seq, (version, toYYYYMM(timestamp))) in (
            select
                newest_of_moving.instrument_name,
                newest_of_moving.trade_seq,
                newest_of_moving.newest
            from newest_of_moving
        )
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
        {{ usd_rate() }} as usd_rate,
        if(usd_rate is null, null, {{ in_usd('notional', 'usd_rate') }}) as notional_usd,
        toLowCardinality({{ usd_rate_missing() }}) as notional_usd_missing,
        cast(not is_block and block_rfq_id is null and not is_combo_leg as Bool) as is_book,
        fromUnixTimestamp64Micro(toInt64(intDiv(version, 4096)), 'UTC') as loaded_at
    from latest
)

select * from final
