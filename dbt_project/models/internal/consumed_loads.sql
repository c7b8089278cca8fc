-- One row per load package that is in all tables that are kept fresh. Building this model loads the packages that are
-- pending, and those whose trades were lost, for example with a dropped partition.
{{ config(materialized='refreshed_table', mend='mend_trades') }}
{{ built_after('loaded_seqs', 'trade_versions', 'moved_trades', 'refresh_moved_rows', 'refresh_log') -}}
{{ built_after('verified_months', 'retention_drops') -}}
{{ built_after('stg_deribit__trade_times', 'stg_deribit__loads') -}}
{%- do source('deribit_raw', 'trades') -%}
{%- do source('deribit_raw', 'dropped_trades') -%}

select arrayJoin({{ refreshed_loads() }}) as load_id
