-- One row per model and load package claimed, and one more once it was consumed.
-- Written only by the hooks in macros/loads.sql.
{{ config(materialized='incremental', incremental_strategy='append', full_refresh=false) }}

select
    toLowCardinality('') as model,
    toUUID('00000000-0000-0000-0000-000000000000') as table_id,
    '' as load_id,
    '' as claim_id,
    toDateTime64(0, 6, 'UTC') as claimed_at,
    false as is_consumed
where false
