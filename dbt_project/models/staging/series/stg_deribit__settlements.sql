-- One row per settlement, delivery or bankruptcy and load package; no row is dropped or merged.
with

source as (
    select * from {{ optional_source('settlements', {
        'currency': "String",
        'type': "String",
        'timestamp': "DateTime64(3, 'UTC')",
        'instrument_name': "String",
        'index_price': "Nullable(Float64)",
        'mark_price': "Nullable(Float64)",
        'position': "Nullable(Float64)",
        'profit_loss': "Nullable(Float64)",
        'session_profit_loss': "Nullable(Float64)",
        'funding': "Nullable(Float64)",
        'funded': "Nullable(Float64)",
        'session_bankruptcy': "Nullable(Float64)",
        'session_tax': "Nullable(Float64)",
        'session_tax_rate': "Nullable(Float64)",
        'socialized': "Nullable(Float64)",
        '_dlt_load_id': "String"
    }) }}
),

final as (
    select
        toString(_dlt_load_id) as load_id,
        currency,
        type,
        timestamp,
        instrument_name,
        index_price,
        mark_price,
        position,
        profit_loss,
        session_profit_loss,
        funding,
        funded,
        session_bankruptcy,
        session_tax,
        session_tax_rate,
        socialized
    from source
)

select * from final
