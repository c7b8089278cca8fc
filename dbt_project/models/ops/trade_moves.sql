-- One row per timestamp of a trade that has had several, and load package that contains a version of it.
-- Written by a hook of `trade_versions` before an old row can be merged away; candles at these times are recomputed.
{{ config(materialized='incremental', incremental_strategy='append', full_refresh=false) }}

select
    '' as load_id,
    '' as instrument_name,
    toInt64(0) as trade_seq,
    toDateTime64(0, 3, 'UTC') as timestamp
where false
