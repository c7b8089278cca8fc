-- One row per finished load package. Rows of a package that is not listed here do not count as loaded.
with

source as (
    select * from {{ source('deribit_raw', '_dlt_loads') }}
),

final as (
    select
        toString(load_id) as load_id,
        toDateTime64(inserted_at, 6, 'UTC') as loaded_at
    from source
    where status = 0
)

select * from final
