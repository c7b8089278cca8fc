-- One row per span of time of a currency and kind whose trades are all loaded; spans neither overlap nor touch.
with

-- A later row with the same start replaces an earlier one; reported spans may overlap.
reported_spans as (
    select
        coverage.currency as currency,
        coverage.kind as kind,
        coverage.covered_from as covered_from,
        max(coverage.covered_to) as covered_to
    from {{ ref('stg_deribit__coverage') }} as coverage
    where {{ is_finished('coverage.load_id', ref('stg_deribit__coverage')) }}
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
        numbered_spans.currency as currency,
        numbered_spans.kind as kind,
        min(numbered_spans.covered_from) as covered_from,
        max(numbered_spans.covered_to) as covered_to
    from numbered_spans
    group by currency, kind, numbered_spans.span
)

select * from final
