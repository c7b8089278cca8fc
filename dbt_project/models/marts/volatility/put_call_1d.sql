-- One row per (underlying, settlement_currency, day): traded puts and calls. Combos are counted by their legs.
with

parsed as (
    select
        toDate(days.bucket_at) as day,
        assumeNotNull(days.volume) as volume,
        days.notional_usd as premium_usd,
        days.trade_count as trade_count,
        {{ instrument_parts() }}
    from {{ ref('ohlcv_1d') }} as days
    where days.kind = 'option'
),

final as (
    select
        toLowCardinality(assumeNotNull(parsed.underlying)) as underlying,
        toLowCardinality(assumeNotNull(parsed.settlement_currency)) as settlement_currency,
        parsed.day as day,
        sumIf(parsed.volume, parsed.option_type = 'put') as put_volume,
        sumIf(parsed.volume, parsed.option_type = 'call') as call_volume,
        toFloat64(put_volume) / nullIf(toFloat64(call_volume), 0) as put_call_ratio,
        if(
            countIf(parsed.option_type = 'put' and parsed.premium_usd is null) > 0, null,
            coalesce(sumIf(parsed.premium_usd, parsed.option_type = 'put'), 0)
        ) as put_premium_usd,
        if(
            countIf(parsed.option_type = 'call' and parsed.premium_usd is null) > 0, null,
            coalesce(sumIf(parsed.premium_usd, parsed.option_type = 'call'), 0)
        ) as call_premium_usd,
        toFloat64(put_premium_usd) / nullIf(toFloat64(call_premium_usd), 0) as put_call_premium_ratio,
        sumIf(parsed.trade_count, parsed.option_type = 'put') as put_trades,
        sumIf(parsed.trade_count, parsed.option_type = 'call') as call_trades
    from parsed
    where parsed.option_type is not null
    group by underlying, settlement_currency, day
)

select * from final
