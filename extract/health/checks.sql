-- Statements of `tape health`.

-- name: has_table
select count() from system.tables where concat(database, '.', name) = {table:String}

-- name: models_pending
-- One row per model that consumes load packages: how many finished ones are pending, and since when.
with

models as (
    select name as model, uuid as table_id
    from system.tables
    where database = 'deribit' and name in (select model from deribit.load_ledger)
),

loads as (
    select toString(load_id) as load_id, inserted_at from deribit_raw._dlt_loads where status = 0
),

consumed as (
    select model, table_id, load_id from deribit.load_ledger where is_consumed
),

final as (
    select
        toString(models.model) as model,
        countIf((models.model, models.table_id, loads.load_id) not in (select model, table_id, load_id from consumed))
            as pending,
        minIf(
            loads.inserted_at,
            (models.model, models.table_id, loads.load_id) not in (select model, table_id, load_id from consumed)
        ) as since
    from models
    cross join loads
    group by model
)

select * from final order by model

-- name: months_pending
-- One row per month of local whose trades differ from those last verified on cloud, and since when.
with

local_loads as (
    select substring(toString(toDate(timestamp)), 1, 7) as month, toString(_dlt_load_id) as load_id, count() as trades
    from deribit_raw.trades
    group by month, load_id
),

loads as (
    select toString(load_id) as load_id, max(inserted_at) as inserted_at
    from deribit_raw._dlt_loads
    where status = 0
    group by load_id
),

verifications as (
    select partition_month as month, argMax(trades, proven_at) as trades_verified, max(proven_at) as verified_at
    from deribit_raw.pushes as pushes
    where target = 'cloud'
    group by month
),

final as (
    select
        local_loads.month as month,
        sum(local_loads.trades) as local_trades,
        any(verifications.trades_verified) as cloud_trades,
        min(if(loads.inserted_at > verifications.verified_at, loads.inserted_at, null)) as newer_load_at,
        assumeNotNull(ifNull(newer_load_at, any(verifications.verified_at))) as since
    from local_loads
    inner join loads on local_loads.load_id = loads.load_id
    left join verifications on local_loads.month = verifications.month
    group by month
    having local_trades != cloud_trades
)

select month, since from final order by since

-- name: disks
select name, free_space, total_space from system.disks
