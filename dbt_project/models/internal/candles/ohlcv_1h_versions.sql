{{ config(materialized='refreshed_table', mend='mend_ohlcv_1h') }}
{{ built_after('refresh_log', 'verified_months', 'consumed_loads', 'ohlcv_1m_versions') -}}
{{ require_complete_history('ohlcv_1m_versions') -}}
{{ refreshed_candles('1h', finer='1m') }}
