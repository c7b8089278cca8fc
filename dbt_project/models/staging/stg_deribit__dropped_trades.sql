-- One row per range of trade_seq that `tape retention` dropped from the raw trades; empty until it has dropped any.
with

source as (
    select * from {{ optional_source('dropped_trades', {
        'instrument_name': "String",
        'currency': "String",
        'kind': "String",
        'first_seq': "Int64",
        'last_seq': "Int64"
    }) }}
),

final as (
    select
        toString(instrument_name) as instrument_name,
        toLowCardinality(toString(currency)) as currency,
        toLowCardinality(toString(kind)) as kind,
        toInt64(first_seq) as first_seq,
        toInt64(last_seq) as last_seq
    from source
)

select * from final
