-- One row per currency and kind, and load package or push that changed its figures. Read through `backfill_progress`.
-- Figures depend on finished load packages and pushes only, so a run without new ones adds no row.
-- Missing trades are counted as `tape gaps` does, see extract/coverage.
{{ config(materialized='incremental', incremental_strategy='append') }}
with

loads as (
    select
        toString(load_id) as load_id,
        toDateTime64(inserted_at, 6, 'UTC') as inserted_at
    from {{ source('deribit_raw', '_dlt_loads') }}
    where status = 0
),

newest as (
    select max(loads.inserted_at) as loaded_at from loads
),

-- A push proves whole months, of every currency and kind.
pushed as (
    select if(count() = 0, null, max(toDateTime64(pushes.proven_at, 3, 'UTC'))) as last_push_at
    from {{ pushes() }} as pushes
),

moved as (
    select
        toString(coverage.currency) as currency,
        toString(coverage.kind) as kind,
        max(loads.inserted_at) as last_load_at
    from {{ source('deribit_raw', 'coverage') }} as coverage
    inner join loads on toString(coverage._dlt_load_id) = loads.load_id
    group by currency, kind
),

covered as (
    select
        toString(spans.currency) as currency,
        toString(spans.kind) as kind,
        spans.covered_from as covered_from,
        spans.covered_to as covered_to
    from {{ ref('covered_spans') }} as spans
),

streams as (
    select
        covered.currency as currency,
        covered.kind as kind,
        min(covered.covered_from) as started_from,
        argMin(covered.covered_to, covered.covered_from) as current,
        sum(dateDiff('millisecond', covered.covered_from, covered.covered_to)) as covered_ms
    from covered
    group by currency, kind
),

listed as (
    select
        toString(instruments.instrument_name) as instrument_name,
        min(toDateTime64(instruments.creation_timestamp, 3, 'UTC')) as created_at
    from {{ source('deribit_raw', 'instruments') }} as instruments
    group by instrument_name
),

tails as (
    select
        toString(last_trades.instrument_name) as instrument_name,
        any(toString(last_trades.currency)) as currency,
        any(toString(last_trades.kind)) as kind,
        max(toInt64(last_trades.last_seq)) as last_seq
    from {{ instrument_tails() }} as last_trades
    group by instrument_name
),

tallies as (
    select * from {{ latest_versions(ref('instrument_tallies')) }}
),

-- Missing trades before the covered time, or in time that is not covered, are no gaps.
gaps as (
    select
        holes.instrument_name as instrument_name,
        toString(holes.currency) as currency,
        toString(holes.kind) as kind,
        holes.first_missing_seq as first_seq,
        holes.last_missing_seq as last_seq
    from {{ ref('trade_gaps') }} as holes
    asof left join covered
        on
            holes.currency = covered.currency and holes.kind = covered.kind
            and holes.before_at >= covered.covered_from
    left join listed on holes.instrument_name = listed.instrument_name
    where
        multiIf(
            holes.before_at is null or holes.before_at > covered.covered_to, false,
            holes.place = 'inner', holes.after_at between covered.covered_from and covered.covered_to,
            covered.covered_from <= toDateTime64('2016-01-01', 3, 'UTC')
            or coalesce(covered.covered_from <= listed.created_at, false)
        )
),

-- From the last loaded trade to the last one of the instrument.
missing_tails as (
    select
        tails.instrument_name as instrument_name,
        tails.currency as currency,
        tails.kind as kind,
        toInt64(bitmapMax(tallies.seqs)) + 1 as first_seq,
        tails.last_seq as last_seq
    from tails
    left join tallies on tails.instrument_name = tallies.instrument_name
    where last_seq >= first_seq
),

ranges as (
    select
        *,
        1 as requested,
        0 as absent
    from gaps
    union all
    select
        *,
        1 as requested,
        0 as absent
    from missing_tails
    union all
    select
        toString(instrument_name) as instrument_name,
        toString(currency) as currency,
        toString(kind) as kind,
        toInt64(first_seq) as first_seq,
        toInt64(last_seq) as last_seq,
        0 as requested,
        1 as absent
    from {{ source('deribit_raw', 'absent_trades') }}
),

-- Starts (+) and ends (-) of ranges; running sums give the state from each number to the next.
range_edges as (
    select
        instrument_name,
        currency,
        kind,
        edge.1 as seq,
        sum(edge.2 * requested) as requested_step,
        sum(edge.2 * absent) as absent_step
    from ranges
    array join [(first_seq, 1), (last_seq + 1, -1)] as edge
    group by instrument_name, currency, kind, seq
),

range_states as (
    select
        currency,
        kind,
        sum(requested_step) over by_seq > 0 as is_requested,
        sum(absent_step) over by_seq > 0 as is_absent,
        leadInFrame(seq, 1, seq) over (
            partition by instrument_name order by seq rows between current row and 1 following
        ) - seq as numbers
    from range_edges
    window by_seq as (partition by instrument_name order by seq)
),

missing_counts as (
    select
        currency,
        kind,
        sumIf(numbers, not is_absent) as missing,
        sumIf(numbers, is_absent) as absent
    from range_states
    where is_requested
    group by currency, kind
),

loaded as (
    select
        toString(tallies.currency) as currency,
        toString(tallies.kind) as kind,
        sum(bitmapCardinality(tallies.seqs)) as trades,
        min(tallies.first_at) as earliest_at,
        max(tallies.last_at) as newest_at
    from tallies
    group by currency, kind
),

current_figures as (
    select
        toLowCardinality(streams.currency) as currency,
        toLowCardinality(streams.kind) as kind,
        streams.started_from as started_from,
        toDateTime64(newest.loaded_at, 3, 'UTC') as target,
        streams.current as current,
        least(100, 100 * streams.covered_ms / greatest(
            1, dateDiff('millisecond', streams.started_from, target)
        )) as percent,
        pushed.last_push_at as last_push_at,
        moved.last_load_at as last_load_at,
        if(loaded.trades = 0, null, loaded.earliest_at) as earliest_at,
        if(loaded.trades = 0, null, loaded.newest_at) as newest_at,
        toUInt64(loaded.trades) as trades,
        toUInt64(missing_counts.missing) as missing,
        toUInt64(missing_counts.absent) as absent,
        greatest(newest.loaded_at, coalesce(pushed.last_push_at, newest.loaded_at)) as updated_at
    from streams
    inner join moved on streams.currency = moved.currency and streams.kind = moved.kind
    cross join newest
    cross join pushed
    left join loaded on streams.currency = loaded.currency and streams.kind = loaded.kind
    left join missing_counts on streams.currency = missing_counts.currency and streams.kind = missing_counts.kind
),

latest as (
    select * from {{ this ~ ' final' if is_incremental() else 'current_figures where false' }}
),

final as (
    select current_figures.* from current_figures
    left join latest on current_figures.currency = latest.currency and current_figures.kind = latest.kind
    where toString(tuple(current_figures.*)) != toString(tuple(latest.*))
)

select * from final
