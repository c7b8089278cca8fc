-- One row per span of time of a currency and kind whose trades are all loaded; the spans are apart from each other.
with

loads as (
    select toString(load_id) as load_id from {{ source('deribit_raw', '_dlt_loads') }}
    where status = 0
),

-- A later row with the same beginning is the newer word; spans may overlap.
said as (
    select
        toString(coverage.currency) as currency,
        toString(coverage.kind) as kind,
        toDateTime64(coverage.covered_from, 3, 'UTC') as covered_from,
        max(toDateTime64(coverage.covered_to, 3, 'UTC')) as covered_to
    from {{ source('deribit_raw', 'coverage') }} as coverage
    where toString(coverage._dlt_load_id) in (select loads.load_id from loads)
    group by currency, kind, covered_from
),

said_apart as (
    select
        *,
        covered_from > toIntervalMillisecond(1) + max(covered_to) over (
            partition by currency, kind order by covered_from
            rows between unbounded preceding and 1 preceding
        ) as is_apart
    from said
),

said_numbered as (
    select
        *,
        sum(is_apart) over (partition by currency, kind order by covered_from) as span
    from said_apart
),

final as (
    select
        toLowCardinality(said_numbered.currency) as currency,
        toLowCardinality(said_numbered.kind) as kind,
        min(said_numbered.covered_from) as covered_from,
        max(said_numbered.covered_to) as covered_to
    from said_numbered
    group by currency, kind, said_numbered.span
)

select * from final
