-- Statements on load packages: what is finished, and what no reader needs any more.

-- name: begun_loads
select distinct load_id from deribit_runs.begun_loads

-- name: loads
-- The newest finished load package ('' for none), the number of stored states, the raw tables, the packages that were
-- begun and are not finished, and those whose rows were deleted lately, each with whether that was ten minutes ago. Of all
-- packages ever loaded it reads those parts of the index that have the newest and the begun ones.
select
    (select load_id from deribit_raw._dlt_loads where status = 0 order by load_id desc limit 1) as newest,
    (select count() from deribit_raw._dlt_pipeline_state) as states,
    (select groupArray(name) from system.tables where database = 'deribit_raw') as tables,
    (
        select groupUniqArray(load_id)
        from deribit_runs.begun_loads
        where
            load_id not in (
                select load_id
                from deribit_raw._dlt_loads
                where status = 0 and load_id in (select load_id from deribit_runs.begun_loads)
            )
    ) as unfinished,
    (select groupArray((load_id, at < now64(6) - interval 10 minute)) from deribit_runs.deleted_loads) as deleted

-- name: tables
select name from system.tables where database = 'deribit_raw'

-- name: tables_of_loads
select distinct table from system.columns where database = 'deribit_raw' and name = '_dlt_load_id'

-- name: record_deleted_loads
insert into deribit_runs.deleted_loads (load_id) select arrayJoin({ids:Array(String)})

-- name: deleted_loads
-- Load packages whose rows were deleted lately, each with whether that was ten minutes ago.
select load_id, at < now64(6) - interval 10 minute from deribit_runs.deleted_loads

-- name: forget_deleted_loads
truncate table deribit_runs.deleted_loads

-- name: forget_begun_loads
truncate table deribit_runs.begun_loads

-- name: retained_state
-- The oldest of the newest states of finished packages; a restore reads none that is older.
select min(load_id)
from (
    select _dlt_load_id as load_id
    from deribit_raw._dlt_pipeline_state
    where _dlt_load_id in (select load_id from deribit_raw._dlt_loads where status = 0)
    order by load_id desc
    limit {retained:UInt32}
)

-- name: delete_states
alter table deribit_raw._dlt_pipeline_state delete where _dlt_load_id < {load_id:String}

-- name: superseded_loads
-- Packages whose covered spans have all grown since: later packages have rows that contain each of theirs. Their number is
-- limited, because a mutation cannot have a parameter of any length; the next runs find the others.
with

spans as (
    select _dlt_load_id as load_id, currency, kind, covered_from, covered_to
    from deribit_raw.coverage
    where load_id in (select load_id from deribit_raw._dlt_loads where status = 0)
),

newest as (
    select
        currency,
        kind,
        covered_from,
        argMax(load_id, (covered_to, load_id)) as newest_load_id
    from spans
    group by currency, kind, covered_from
)

select load_id
from spans
inner join newest using (currency, kind, covered_from)
group by load_id
having min(newest_load_id > load_id)
limit 2000

-- name: delete_spans
alter table deribit_raw.coverage delete where _dlt_load_id in {load_ids:Array(String)}

-- name: delete_claims
alter table deribit_runs.leases delete where at < now() - interval 10 minute
