-- One row per table and month that `tape retention` dropped from it. Written by that command before the drop; a build
-- adds the rows that were lost since, from their second record in `verified_months`.
{{ config(materialized='incremental', incremental_strategy='append', full_refresh=false) }}

select
    lost.table_name as table_name,
    lost.table_id as table_id,
    lost.month as month,
    min(lost.dropped_at) as dropped_at
from ({{ second_record_of_drops(ref('verified_months')) }}) as lost
{% if is_incremental() -%}
    where (lost.table_id, lost.month) not in (
        select
            kept.table_id,
            kept.month
        from {{ this }} as kept
    )
{%- endif %}
group by table_name, table_id, month
