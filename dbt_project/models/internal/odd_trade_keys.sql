-- One row per trade that was odd when it was loaded, or when its month was last compared. Read through `odd_trades`.
{{ config(materialized='refreshed_table', mend='mend_odd_trade_keys') }}
{{ built_after('consumed_loads', 'trade_versions', 'trades', 'refresh_log', 'verified_months', 'retention_drops') -}}
with

{{ refreshed_trades() }},

final as (
    select
        instrument_name,
        trade_seq
    from portion
    where {{ oddity_of_trade() }} is not null
)

select * from final
