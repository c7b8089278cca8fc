-- One row per currency and kind: how far its history is loaded, and how much of that is proven.
with

figures as (
    select * from {{ ref('backfill_figures') }}
),

final as (
    select
        currency,
        kind,
        started_from,
        target,
        current,
        percent,
        -- Uses the clock of the query, so that a running load is visible without writing a row.
        toLowCardinality(multiIf(
            missing > 0, 'error',
            current >= target - toIntervalHour(1), 'completed',
            last_load_at >= now64(6, 'UTC') - toIntervalMinute(10), 'running',
            'paused'
        )) as status,
        last_push_at,
        last_load_at,
        earliest_at,
        newest_at,
        trades,
        missing,
        absent,
        if(trades + missing + absent = 0, 1, 1 - missing / (trades + missing + absent)) as proven_share,
        updated_at
    from figures
)

select * from final
