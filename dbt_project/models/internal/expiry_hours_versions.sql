-- One row per (underlying, settlement_currency, expiry, bucket_at) and computation of it, until ClickHouse merges older
-- ones away: forward and smile of an expiry in an hour in which it was traded. Read through `expiry_hours`.
{{ config(materialized='refreshed_table', mend='mend_expiry_hours') }}
{{ built_after('refresh_log', 'verified_months', 'consumed_loads', 'trade_versions') -}}
{{ require_complete_history('trade_versions') -}}
{{ refreshed_expiry_hours() }}
