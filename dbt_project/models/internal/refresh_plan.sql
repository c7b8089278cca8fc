-- One row per step of a refresh whose view exists, in their order. While a first build is under way, the views of later
-- steps are missing: the build will compute their tables.
{{ built_after('pending_portions') -}}
with

steps as (
    {{ refresh_steps() }}
),

final as (
    select * from steps
    where view_name in (select concat(tables.database, '.', tables.name) from system.tables as tables)
)

select * from final
