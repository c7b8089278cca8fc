-- One row per span of time that a load package added or extended, by currency and kind; no row is dropped or merged.
with

source as (
    select * from {{ source('deribit_raw', 'coverage') }}
),

final as (
    select
        toString(_dlt_load_id) as load_id,
        toLowCardinality(toString(currency)) as currency,
        toLowCardinality(toString(kind)) as kind,
        toDateTime64(covered_from, 3, 'UTC') as covered_from,
        toDateTime64(covered_to, 3, 'UTC') as covered_to
    from source
)

select * from final
