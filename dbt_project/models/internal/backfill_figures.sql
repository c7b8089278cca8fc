-- One row per currency and kind: figures that depend on finished load packages and pushes only.
-- Missing trades are counted as `tape gaps` does, see extract/coverage.
with

newest as (
    select max(loads.loaded_at) as loaded_at from {{ ref('stg_deribit__loads') }} as loads
),

-- A push proves whole months, of every currency and kind.
pushed as (
    select if(count() = 0, null, max(pushes.proven_at)) as last_push_at
    from {{ ref('stg_deribit__pushes') }} as pushes
),

moved as (
    select
        toString(coverage.currency) as currency,
        toString(coverage.kind) as kind,
        max(loads.loaded_at) as last_load_at
    from {{ ref('stg_deribit__coverage') }} as coverage
    inner join {{ ref('stg_deribit__loads') }} as loads on coverage.load_id = loads.load_id
    -- Only these packages are looked up.
    where loads.load_id in (select named.load_id from {{ ref('stg_deribit__coverage') }} as named)
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

tallies as (
    select * from {{ ref('instrument_tallies') }}
),

missing_counts as (
    select
        toString(gaps.currency) as currency,
        toString(gaps.kind) as kind,
        sumIf(gaps.missing, not gaps.is_absent) as missing,
        sumIf(gaps.missing, gaps.is_absent) as absent
    from {{ ref('coverage_gaps') }} as gaps
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

final as (
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
)

select * from final
