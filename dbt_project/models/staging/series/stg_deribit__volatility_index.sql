-- One row per candle of the volatility index and load package; no row is dropped or merged.
with

source as (
    select * from {{ optional_source('volatility_index', {
        'currency': "String",
        'resolution': "String",
        'timestamp': "DateTime64(3, 'UTC')",
        'open': "Float64",
        'high': "Float64",
        'low': "Float64",
        'close': "Float64",
        '_dlt_load_id': "String"
    }) }}
),

final as (
    select
        toString(_dlt_load_id) as load_id,
        currency,
        resolution,
        timestamp,
        open,
        high,
        low,
        close
    from source
)

select * from final
