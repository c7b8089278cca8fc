-- One row per hour of a perpetual and load package; no row is dropped or merged.
with

source as (
    select * from {{ optional_source('funding_rates', {
        'instrument_name': "String",
        'timestamp': "DateTime64(3, 'UTC')",
        'index_price': "Nullable(Float64)",
        'prev_index_price': "Nullable(Float64)",
        'interest_1h': "Float64",
        'interest_8h': "Nullable(Float64)",
        '_dlt_load_id': "String"
    }) }}
),

final as (
    select
        toString(_dlt_load_id) as load_id,
        instrument_name,
        timestamp,
        index_price,
        prev_index_price,
        interest_1h,
        interest_8h
    from source
)

select * from final
