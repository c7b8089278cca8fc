-- One row per currency and kind, and load package or push after which its figures were others.
-- Behind `backfill_progress`. The figures are of finished load packages and pushes alone: a run without a new one
-- finds them as they are and adds no row.
-- What counts as missing is what `tape gaps` counts, see extract/coverage/gaps_sql.py.
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
        toString(known_ends.instrument_name) as instrument_name,
        any(toString(known_ends.currency)) as currency,
        any(toString(known_ends.kind)) as kind,
        max(toInt64(known_ends.last_seq)) as last_seq
    from {{ instrument_tails() }} as known_ends
    group by instrument_name
),

tallies as (
    select * from {{ latest(ref('instrument_tallies')) }}
),

-- What lies before the time asked for or kept, or in time that is not covered, is no gap.
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

-- From the last trade that is there to the last one there was.
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
        1 as asked,
        0 as absent
    from gaps
    union all
    select
        *,
        1 as asked,
        0 as absent
    from missing_tails
    union all
    select
        toString(instrument_name) as instrument_name,
        toString(currency) as currency,
        toString(kind) as kind,
        toInt64(first_seq) as first_seq,
        toInt64(last_seq) as last_seq,
        0 as asked,
        1 as absent
    from {{ source('deribit_raw', 'absent_trades') }}
),

-- Where a range begins (+) and ends (-): running sums then tell what holds from each number to the next mark.
marks as (
    select
        instrument_name,
        currency,
        kind,
        mark.1 as seq,
        sum(mark.2 * asked) as asked_step,
        sum(mark.2 * absent) as absent_step
    from ranges
    array join [(first_seq, 1), (last_seq + 1, -1)] as mark
    group by instrument_name, currency, kind, seq
),

levels as (
    select
        currency,
        kind,
        sum(asked_step) over by_seq > 0 as is_asked,
        sum(absent_step) over by_seq > 0 as is_absent,
        leadInFrame(seq, 1, seq) over (
            partition by instrument_name order by seq rows between current row and 1 following
        ) - seq as numbers
    from marks
    window by_seq as (partition by instrument_name order by seq)
),

lacked as (
    select
        currency,
        kind,
        sumIf(numbers, not is_absent) as missing,
        sumIf(numbers, is_absent) as absent
    from levels
    where is_asked
    group by currency, kind
),

held as (
    select
        toString(tallies.currency) as currency,
        toString(tallies.kind) as kind,
        sum(bitmapCardinality(tallies.seqs)) as trades,
        min(tallies.first_at) as earliest_at,
        max(tallies.last_at) as newest_at
    from tallies
    group by currency, kind
),

found as (
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
        if(held.trades = 0, null, held.earliest_at) as earliest_at,
        if(held.trades = 0, null, held.newest_at) as newest_at,
        toUInt64(held.trades) as trades,
        toUInt64(lacked.missing) as missing,
        toUInt64(lacked.absent) as absent,
        greatest(newest.loaded_at, coalesce(pushed.last_push_at, newest.loaded_at)) as updated_at
    from streams
    inner join moved on streams.currency = moved.currency and streams.kind = moved.kind
    cross join newest
    cross join pushed
    left join held on streams.currency = held.currency and streams.kind = held.kind
    left join lacked on streams.currency = lacked.currency and streams.kind = lacked.kind
),

known as (
    select * from {{ this ~ ' final' if is_incremental() else 'found where false' }}
),

final as (
    select found.* from found
    left join known on found.currency = known.currency and found.kind = known.kind
    where toString(tuple(found.*)) != toString(tuple(known.*))
)

select * from final
