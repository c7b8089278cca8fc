-- One row per table and month that `tape retention` dropped from it. Written only by that command, before the drop.
{{ config(materialized='incremental', incremental_strategy='append', full_refresh=false) }}

select
    '' as table_name,
    toUUID('00000000-0000-0000-0000-000000000000') as table_id,
    toUInt32(0) as month,
    toDateTime64(0, 3, 'UTC') as dropped_at
where false
