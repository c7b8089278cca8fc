-- One row per (instrument_name, day): open interest at the daily settlement, else at the last recorded snapshot.
with

settled as (
    select
        settlements.instrument_name as instrument_name,
        toDate(settlements.timestamp) as day,
        'settlement' as source,
        max(settlements.timestamp) as measured_at,
        argMax(settlements.position, settlements.timestamp) as open_interest
    from {{ ref('settlements') }} as settlements
    where settlements.type = 'settlement' and settlements.instrument_name != '' and settlements.position is not null
    group by instrument_name, day
),

recorded as (
    select
        summaries.instrument_name as instrument_name,
        toDate(summaries.timestamp) as day,
        'book_summary' as source,
        max(summaries.timestamp) as measured_at,
        argMax(
            summaries.open_interest, (summaries.timestamp, toDecimal128OrZero(summaries.load_id, 6))
        ) as open_interest
    from {{ ref('stg_deribit__book_summaries') }} as summaries
    where
        summaries.load_id in (select loads.load_id from {{ ref('stg_deribit__loads') }} as loads)
        and summaries.open_interest is not null
    group by instrument_name, day
),

measured as (
    select * from settled
    union all
    select * from recorded
),

preferred as (
    select
        measured.instrument_name as instrument_name,
        measured.day as day,
        argMax(
            tuple(assumeNotNull(measured.open_interest), measured.source, measured.measured_at), measured.source
        ) as chosen
    from measured
    group by instrument_name, day
),

parsed as (
    select
        *,
        {{ instrument_parts() }}
    from preferred
),

final as (
    select
        instrument_name,
        day,
        toLowCardinality(underlying) as underlying,
        toLowCardinality(settlement_currency) as settlement_currency,
        expiry,
        strike,
        toLowCardinality(option_type) as option_type,
        chosen.1 as open_interest,
        toLowCardinality(chosen.2) as source,
        chosen.3 as measured_at
    from parsed
)

select * from final
