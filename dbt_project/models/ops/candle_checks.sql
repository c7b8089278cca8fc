-- One row per comparison of a chart of the exchange with candles, and per difference. Written only by `tape verify`.
{{ config(materialized='incremental', incremental_strategy='append', full_refresh=false) }}

select
    '' as instrument_name,
    toLowCardinality('') as level,
    toDateTime(0, 'UTC') as bucket_at,
    toDateTime(0, 'UTC') as last_bucket_at,
    toUInt32(0) as bars,
    toLowCardinality('') as classification,
    '' as detail,
    cast(null as Nullable(String)) as agrees_with,
    toDateTime(0, 'UTC') as window_at,
    toDateTime64(0, 3, 'UTC') as checked_at
where false
