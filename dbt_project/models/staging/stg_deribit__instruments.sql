-- One row per listing of an instrument in a load package; no row is dropped or merged.
with

source as (
    select * from {{ source('deribit_raw', 'instruments') }}
),

final as (
    select
        toString(_dlt_load_id) as load_id,
        toString(instrument_name) as instrument_name,
        toLowCardinality(cast(kind as Nullable(String))) as kind,
        toLowCardinality(cast(base_currency as Nullable(String))) as base_currency,
        toLowCardinality(cast(quote_currency as Nullable(String))) as quote_currency,
        toLowCardinality(cast(settlement_currency as Nullable(String))) as settlement_currency,
        toLowCardinality(cast(instrument_type as Nullable(String))) as instrument_type,
        toLowCardinality(cast(option_type as Nullable(String))) as option_type,
        strike,
        -- The exchange lists the year 3000 as the expiry of spot and perpetuals.
        if(
            settlement_period = 'perpetual' or toYear(expiration_timestamp) >= 2200,
            null,
            toDateTime64(expiration_timestamp, 3, 'UTC')
        ) as expires_at,
        toDateTime64(creation_timestamp, 3, 'UTC') as created_at,
        cast(is_active as Nullable(Bool)) as is_active,
        cast(price_index as Nullable(String)) as price_index,
        contract_size,
        tick_size
    from source
)

select * from final
