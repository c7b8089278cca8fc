-- One row per place in time that a re-stated trade left, and load package that moved it. Written by a hook of
-- `trade_versions`, before the old row can merge away; candles are recomputed there.
{{ config(materialized='incremental', incremental_strategy='append', full_refresh=false) }}

select
    '' as load_id,
    '' as instrument_name,
    toDateTime64(0, 3, 'UTC') as timestamp
where false
