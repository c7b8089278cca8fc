-- One row per span of time of a currency and kind whose trades are all loaded; spans neither overlap nor touch.
with

loads as (
    select toString(load_id) as load_id from {{ source('deribit_raw', '_dlt_loads') }}
    where status = 0
),

-- A later row with the same start replaces an earlier one; reported spans may overlap.
reported_spans as (
    select
        toString(coverage.currency) as currency,
        toString(coverage.kind) as kind,
        toDateTime64(coverage.covered_from, 3, 'UTC') as covered_from,
        max(toDateTime64(coverage.covered_to, 3, 'UTC')) as covered_to
    from {{ source('deribit_raw', 'coverage') }} as coverage
    where toString(coverage._dlt_load_id) in (select loads.load_id from loads)
    group by currency, kind, covered_from
),

flagged_spans as (
    select
        *,
        covered_from > toIntervalMillisecond(1) + max(covered_to) over (
            partition by currency, kind order by covered_from
            rows between unbounded preceding and 1 preceding
        ) as starts_new_span
    from reported_spans
),

numbered_spans as (
    select
        *,
        sum(starts_new_span) over (partition by currency, kind order by covered_from) as span
    from flagged_spans
),

final as (
    select
        toLowCardinality(numbered_spans.currency) as currency,
        toLowCardinality(numbered_spans.kind) as kind,
        min(numbered_spans.covered_from) as covered_from,
        max(numbered_spans.covered_to) as covered_to
    from numbered_spans
    group by currency, kind, numbered_spans.span
)

select * from final
