-- Statements of `tape backup` and `tape restore`. `<name>` is an expression or a relation.

-- name: columns
-- Columns that are stored; others are computed from them.
select table, name, type
from system.columns
where database = 'deribit_raw' and default_kind not in ('ALIAS', 'MATERIALIZED')
order by table, position

-- name: tables
-- Whether a table is partitioned by month, and its definition.
select name, partition_key = 'toYYYYMM(timestamp)', create_table_query
from system.tables
where database = 'deribit_raw' and engine like '%MergeTree'
order by name

-- name: newest_load
select max(load_id) from <finished_loads>

-- name: digests
-- Per day (YYYYMMDD): number of rows, sum of the hashes of their keys, and of their contents.
select <day> as day, count(), sum(<key_hash>), sum(<content_hash>)
from <rows>
where <in_range>
group by day
order by day

-- name: rows_of_load_packages
-- Rows of finished load packages up to the newest one of a backup.
(
    select *
    from <table>
    where cityHash64(_dlt_load_id) in (
        select cityHash64(load_id) from <finished_loads> where load_id <= {newest_load:String}
    )
)

-- name: load_packages
(select * from <finished_loads> where load_id <= {newest_load:String})

-- name: create_backups
create table if not exists deribit_runs.backups (
    at DateTime64(3, 'UTC'),
    location String,
    rows UInt64,
    bytes UInt64,
    is_proven Bool
) engine = MergeTree order by at

-- name: create_restores
-- Restores into this server; a load package counts as loaded only after all others rows of its restore.
create table if not exists deribit_runs.restores (
    at DateTime64(3, 'UTC'),
    location String,
    backup String,
    is_complete Bool
) engine = MergeTree order by at

-- name: begun_restores
select distinct backup from deribit_runs.restores where not is_complete

-- name: has_restores
select count() from system.tables where database = 'deribit_runs' and name = 'restores'
