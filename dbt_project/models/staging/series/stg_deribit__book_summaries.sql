-- One row per instrument, snapshot and load package; no row is dropped or merged.
with

source as (
    select * from {{ optional_source('book_summaries', {
        'timestamp': "DateTime64(3, 'UTC')",
        'instrument_name': "String",
        'open_interest': "Nullable(Float64)",
        '_dlt_load_id': "String"
    }) }}
),

final as (
    select
        toString(_dlt_load_id) as load_id,
        timestamp,
        instrument_name,
        open_interest
    from source
)

select * from final
