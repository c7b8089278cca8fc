{{ config(materialized='refreshed_table', mend='mend_ohlcv_1m') }}
{{ built_after('refresh_log', 'verified_months', 'consumed_loads', 'trade_versions') -}}
{{ require_complete_history('trade_versions') -}}
{{ refreshed_minutes() }}
