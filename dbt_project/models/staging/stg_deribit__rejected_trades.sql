-- One row per record of the exchange that could not be typed.
with

source as (
    select * from {{ source('deribit_raw', 'rejected_trades') }}
),

final as (
    select
        toString(_dlt_load_id) as load_id,
        toLowCardinality(toString(currency)) as currency,
        toLowCardinality(toString(kind)) as kind,
        toString(reason) as reason,
        toString(raw) as raw
    from source
)

select * from final
