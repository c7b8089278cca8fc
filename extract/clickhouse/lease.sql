-- Statements of the lease and of the record of started load packages.

-- name: create_database
create database if not exists deribit_runs

-- name: create_leases
create table if not exists deribit_runs.leases (
    lease_id String,
    sign UInt32,
    holder String,
    is_held Bool,
    at DateTime64(6, 'UTC') default now64(6),
    expires_at DateTime64(6, 'UTC')
) engine = MergeTree order by at ttl toDateTime(at) + interval 30 day

-- name: create_begun_loads
create table if not exists deribit_runs.begun_loads (
    load_id String,
    at DateTime64(6, 'UTC') default now64(6)
) engine = MergeTree order by load_id

-- name: claim
insert into deribit_runs.leases (lease_id, sign, holder, is_held, expires_at)
select
    {lease_id:String},
    {sign:UInt32},
    {holder:String},
    {is_held:Bool},
    now64(6) + toIntervalMillisecond({ms:Int64})

-- name: other_claims
-- One row per other lease, the newest first: its holder, the milliseconds that it has left, whether it was ever held.
-- Claims of the future, or for longer than `most_ms`, do not count: otherwise a user who may insert claims could keep
-- all others out until an arbitrary date.
with

toIntervalMillisecond({most_ms:Int64}) as most,

final as (
    select
        argMax(holder, sign) as holder,
        max(at) as seen_at,
        max(is_held) as was_held,
        least(argMax(expires_at, sign), seen_at + most) as valid_until
    from deribit_runs.leases
    where lease_id != {lease_id:String} and at <= now64(6) + most
    group by lease_id
)

select holder, dateDiff('millisecond', now64(6), valid_until), was_held
from final
order by seen_at desc
limit 100

-- name: started_loads
select distinct load_id from deribit_runs.begun_loads

-- name: tables_of_loads
select distinct table
from system.columns
where database = 'deribit_raw' and (name = '_dlt_load_id' or table = '_dlt_loads')

-- name: finished_loads
select load_id from deribit_raw._dlt_loads where status = 0 and load_id in {ids:Array(String)}

-- name: forget_started_loads
truncate table deribit_runs.begun_loads
