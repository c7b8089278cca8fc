-- Statements of the lease.

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

-- name: create_deleted_loads
create table if not exists deribit_runs.deleted_loads (
    load_id String,
    at DateTime64(6, 'UTC') default now64(6)
) engine = MergeTree order by load_id

-- name: claim
insert into deribit_runs.leases (lease_id, sign, holder, is_held, expires_at)
select {lease_id:String}, {sign:UInt32}, {holder:String}, true, now64(6) + toIntervalMillisecond({ms:Int64})

-- name: other_claims
-- One row per other lease that has not expired: its holder, and the milliseconds that it has left.
-- Claims of the future, or for longer than `most_ms`, do not count: otherwise a user who may insert claims could keep
-- all others out until an arbitrary date.
with

toIntervalMillisecond({most_ms:Int64}) as most,

final as (
    select
        argMax(holder, sign) as holder,
        max(at) as seen_at,
        least(argMax(expires_at, sign), seen_at + most) as valid_until
    from deribit_runs.leases
    where lease_id != {lease_id:String} and at <= now64(6) + most
    group by lease_id
)

select holder, dateDiff('millisecond', now64(6), valid_until) as left_ms
from final
where left_ms > 0
order by seen_at desc
limit 100
