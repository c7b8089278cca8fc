-- One row per instrument and computation of it, until ClickHouse merges older ones away: its first and its last trade.
{{ config(materialized='refreshed_table', mend='mend_instrument_ends') }}
{{ built_after('ohlcv_1h_versions', 'refresh_log', 'verified_months') -}}
{{ require_complete_history('trade_versions') -}}
{{ require_complete_history('ohlcv_1m_versions') -}}
{{ require_complete_history('ohlcv_1h_versions') -}}
with

{{ touched_instruments(ref('touched_minutes'), 'version = ' ~ touched_version()) }},

{{ instrument_ends() }}

select
    final.*,
    {{ refresh_version() }} as version
from final
