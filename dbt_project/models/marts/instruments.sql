-- One row per instrument that the exchange listed or that has trades, including expired ones.
-- Values listed by the exchange take precedence over those parsed from the name.
with

listed as (
    select * from {{ ref('stg_deribit__instruments') }}
    where {{ is_finished('load_id', ref('stg_deribit__instruments')) }}
    order by toDecimal128OrZero(load_id, 6) desc
    limit 1 by instrument_name
),

tallies as (
    select * from {{ ref('instrument_tallies') }}
),

traded as (
    select
        tallies.instrument_name as instrument_name,
        tallies.kind as kind,
        bitmapCardinality(tallies.seqs) as trade_count,
        toStartOfDay(tallies.first_at) as first_traded_on,
        toStartOfDay(tallies.last_at) as last_traded_on
    from tallies
),

named as (
    select instrument_name from listed
    union distinct
    select instrument_name from traded
),

parsed as (
    select
        instrument_name,
        {{ instrument_parts() }},
        {{ first_leg_expiry('instrument_name') }} as leg_expiry
    from named
),

final as (
    select
        parsed.instrument_name as instrument_name,
        toLowCardinality(coalesce(listed.kind, nullIf(traded.kind, ''))) as kind,
        toLowCardinality(coalesce(listed.base_currency, parsed.underlying)) as underlying,
        toLowCardinality(coalesce(listed.quote_currency, parsed.quote_currency)) as quote_currency,
        toLowCardinality(coalesce(listed.settlement_currency, parsed.settlement_currency)) as settlement_currency,
        multiIf(
            listed.expires_at is not null, listed.expires_at,
            parsed.expiry is not null, toDateTime64(parsed.expiry, 3, 'UTC'),
            kind in ('future_combo', 'option_combo'), toDateTime64(parsed.leg_expiry, 3, 'UTC'),
            null
        ) as expires_at,
        coalesce(listed.strike, parsed.strike) as strike,
        toLowCardinality(coalesce(listed.option_type, parsed.option_type)) as option_type,
        listed.instrument_type as instrument_type,
        listed.created_at as created_at,
        listed.contract_size as contract_size,
        listed.tick_size as tick_size,
        listed.is_active as is_active,
        cast(listed.instrument_name != '' as Bool) as is_listed,
        traded.trade_count as trade_count,
        if(traded.trade_count = 0, null, traded.first_traded_on) as first_traded_on,
        if(traded.trade_count = 0, null, traded.last_traded_on) as last_traded_on
    from parsed
    left join listed on parsed.instrument_name = listed.instrument_name
    left join traded on parsed.instrument_name = traded.instrument_name
)

select * from final
