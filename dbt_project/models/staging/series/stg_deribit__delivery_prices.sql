-- One row per index, expiry day and load package; no row is dropped or merged.
with

source as (
    select * from {{ optional_source('delivery_prices', {
        'index_name': "String",
        'date': "Date",
        'delivery_price': "Float64",
        '_dlt_load_id': "String"
    }) }}
),

final as (
    select
        toString(_dlt_load_id) as load_id,
        index_name,
        date,
        delivery_price
    from source
)

select * from final
