-- The record of runs, which `tape health` reads.

-- name: create_runs
create table if not exists deribit_runs.runs (
    started_at DateTime64(3, 'UTC'),
    ended_at DateTime64(3, 'UTC') default now64(3),
    holder String,
    limit_s Nullable(Float64),
    is_failed Bool,
    error String
) engine = MergeTree order by started_at ttl toDateTime(started_at) + interval 1 year

-- name: insert_run
insert into deribit_runs.runs (started_at, ended_at, holder, limit_s, is_failed, error)
select
    now64(3) - toIntervalMillisecond({ms:Int64}), now64(3), {holder:String}, {limit_s:Nullable(Float64)}, {is_failed:Bool},
    {error:String}
