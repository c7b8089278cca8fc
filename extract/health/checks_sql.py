"""What `tape health` asks ClickHouse."""

from __future__ import annotations

from extract.clickhouse.settings import MART_DATABASE, RAW_DATABASE

LEDGER = f"select 1 from system.tables where database = '{MART_DATABASE}' and name = 'load_ledger'"

# One row per model that consumes load packages: how many finished ones it has not, and since when.
MODELS_PENDING = f"""
with

models as (
    select name as model, uuid as table_id
    from system.tables
    where database = '{MART_DATABASE}' and name in (select model from {MART_DATABASE}.load_ledger)
),

loads as (
    select toString(load_id) as load_id, inserted_at from {RAW_DATABASE}._dlt_loads where status = 0
),

consumed as (
    select model, table_id, load_id from {MART_DATABASE}.load_ledger where is_consumed
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

select * from final order by model"""

# One row per month of local that holds other trades than were last proven on cloud: since when.
MONTHS_PENDING = f"""
with

held as (
    select substring(toString(toDate(timestamp)), 1, 7) as month, toString(_dlt_load_id) as load_id, count() as trades
    from {RAW_DATABASE}.trades
    group by month, load_id
),

loads as (
    select toString(load_id) as load_id, max(inserted_at) as inserted_at
    from {RAW_DATABASE}._dlt_loads
    where status = 0
    group by load_id
),

proofs as (
    select partition_month as month, argMax(trades, proven_at) as proven, max(proven_at) as last_at
    from {RAW_DATABASE}.pushes as pushes
    where target = 'cloud'
    group by month
),

final as (
    select
        held.month as month,
        sum(held.trades) as trades_held,
        any(proofs.proven) as trades_proven,
        min(if(loads.inserted_at > proofs.last_at, loads.inserted_at, null)) as newer,
        assumeNotNull(ifNull(newer, any(proofs.last_at))) as since
    from held
    inner join loads on held.load_id = loads.load_id
    left join proofs on held.month = proofs.month
    group by month
    having trades_held != trades_proven
)

select month, since from final order by since"""

DISKS = "select name, free_space, total_space from system.disks"
