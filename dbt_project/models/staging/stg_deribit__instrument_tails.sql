-- One row per expired instrument and request of its last trade; empty until `tape gaps --tails` has requested any.
with

source as (
    select * from {{ optional_source('instrument_tails', {
        'instrument_name': "String",
        'last_seq': "Int64",
        'currency': "String",
        'kind': "String",
        '_dlt_load_id': "String"
    }) }}
),

final as (
    select
        toString(_dlt_load_id) as load_id,
        toString(instrument_name) as instrument_name,
        toLowCardinality(toString(currency)) as currency,
        toLowCardinality(toString(kind)) as kind,
        toInt64(last_seq) as last_seq
    from source
)

select * from final
