-- One row per raw row: which trade it is, and when. Refreshes read it often, without the columns they do not need.
with

source as (
    select * from {{ source('deribit_raw', 'trades') }}
),

final as (
    select
        toString(_dlt_load_id) as load_id,
        toString(instrument_name) as instrument_name,
        toInt64(trade_seq) as trade_seq,
        timestamp
    from source
)

select * from final
