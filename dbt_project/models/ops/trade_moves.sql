-- One row per place in time of a trade that has had more than one, and load package that holds a version of it.
-- Written by a hook of `trade_versions`, before an old row can merge away; candles are recomputed there.
{{ config(materialized='incremental', incremental_strategy='append', full_refresh=false) }}

select
    '' as load_id,
    '' as instrument_name,
    toInt64(0) as trade_seq,
    toDateTime64(0, 3, 'UTC') as timestamp
where false
