-- One row per step of a refresh whose view exists, in their order. While a first build is under way, the views of later
-- steps are missing: the build will compute their tables.
{{ built_after('pending_portions') -}}
with

steps as (
    {{ refresh_steps() }}
),

views as (
    select
        concat(tables.database, '.', tables.name) as view_name,
        tables.as_select as query
    from system.tables as tables
    where tables.name in (select splitByChar('.', steps.view_name)[-1] from steps)  -- reads these tables only
),

final as (
    select
        steps.position as position,
        steps.table_name as table_name,
        steps.view_name as view_name,
        views.query as query,
        steps.parameters as parameters
    from steps
    inner join views on steps.view_name = views.view_name
)

select * from final
