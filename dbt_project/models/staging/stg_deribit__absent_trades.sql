-- One row per range of trade_seq, and load package in which the exchange did not have it.
with

source as (
    select * from {{ source('deribit_raw', 'absent_trades') }}
),

final as (
    select
        toString(_dlt_load_id) as load_id,
        toString(instrument_name) as instrument_name,
        toLowCardinality(toString(currency)) as currency,
        toLowCardinality(toString(kind)) as kind,
        toInt64(first_seq) as first_seq,
        toInt64(last_seq) as last_seq,
        toDateTime64(found_at, 3, 'UTC') as checked_at
    from source
)

select * from final
