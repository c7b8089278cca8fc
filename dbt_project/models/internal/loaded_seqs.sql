-- One row per instrument and chunk of 65,536 trade numbers, until merged one per portion: which numbers are loaded, and
-- in which months. Bitmaps are merged by OR, so a number that is loaded twice counts once.
{{ config(materialized='refreshed_table', mend='mend_selected_trades') }}
{{ mended_from_raw() -}}
{{ require_complete_raw_history() -}}

select
    trades.instrument_name as instrument_name,
    {{ seq_bitmaps('trades.trade_seq', 'trades.timestamp') }}
from {{ ref('stg_deribit__trade_times') }} as trades
where {{ is_refreshed('trades.load_id') }}
group by instrument_name, chunk
