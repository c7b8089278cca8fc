-- One row per step of a refresh whose table exists, in their order. While a first build is under way, the tables of
-- later steps are missing: the build will compute them. If the view of an existing table is missing, it has no query.
{{ built_after('pending_portions', 'refresh_settled_moves', 'touched_minutes') -}}
with

steps as (
    {{ refresh_steps() }}
),

existing as (
    select
        concat(tables.database, '.', tables.name) as name,
        tables.as_select as query
    from system.tables as tables
    where tables.name in (  -- reads these tables only
        select splitByChar('.', arrayJoin([steps.table_name, steps.view_name]))[-1] from steps
    )
),

final as (
    select
        steps.position as position,
        steps.table_name as table_name,
        steps.view_name as view_name,
        views.query as query,
        steps.parameters as parameters
    from steps
    left join existing as views on steps.view_name = views.name
    where views.name != '' or steps.table_name in (select existing.name from existing)
)

select * from final
