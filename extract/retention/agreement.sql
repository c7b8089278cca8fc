-- Statements of `tape retention`: compare a month with the coarser level, then record and drop it.
-- `<name>` is a table, view or expression of the levels compared.

-- name: old_months
-- Month (YYYYMM), rows and bytes of each partition before a month.
select toUInt32(partition_id) as month, sum(rows), sum(bytes_on_disk)
from system.parts
where active and concat(database, '.', table) = {table:String}
group by month
having sum(rows) > 0 and month < {first_retained:Int64}
order by month

-- name: differing_buckets
-- How many buckets of the coarser level differ from the finer level's month, in trades, volume or notional.
with

dropped as (
    select month
    from deribit.retention_drops
    where table_id in (select uuid from system.tables where concat(database, '.', name) = {table:String})
),

buckets as (
    -- A bucket that reaches into a month dropped before was compared then, and is closed since.
    select distinct toDateTime(<bucket>, 'UTC') as bucket
    from <fine>
    where toYYYYMM(<time>) = {month:UInt32}
        and toYYYYMM(bucket) not in (select dropped.month from dropped)
        and ('<coarse>' != 'deribit.ohlcv_1w' or toYYYYMM(bucket + toIntervalDay(6)) not in (select dropped.month from dropped))
),

fine as (
    select
        instrument_name,
        toDateTime(<bucket>, 'UTC') as bucket,
        toUInt64(<trades>) as trades,
        sum(one.volume) as total,
        sum(one.notional) as value
    from <fine> as one
    where bucket in (select buckets.bucket from buckets)
    group by instrument_name, bucket
),

coarse as (
    select instrument_name, bucket_at as bucket, trade_count as trades, volume as total, notional as value
    from <coarse>
    where bucket_at in (select buckets.bucket from buckets)
)

select count()
from fine
full outer join coarse on fine.instrument_name = coarse.instrument_name and fine.bucket = coarse.bucket
where (fine.trades, fine.total, fine.value) != (coarse.trades, coarse.total, coarse.value)

-- name: missing_trades
-- How many raw trades of the month are not in the models' trades.
select uniqExact(instrument_name, trade_seq)
from <fine>
where toYYYYMM(timestamp) = {month:UInt32}
    and (instrument_name, trade_seq) not in (select instrument_name, trade_seq from <coarse>)

-- name: record_drop
insert into deribit.retention_drops (table_name, table_id, month, dropped_at)
select concat(database, '.', name), uuid, {month:UInt32}, now64(3)
from system.tables
where concat(database, '.', name) = {table:String}

-- name: record_drop_again
-- As dbt does it, which reads both records.
insert into deribit.verified_months (model, month, source_state, own_state, verified_by, verified_at)
select 'retention_drops', {month:UInt32}, toString(uuid), concat(database, '.', name), 'tape retention', now64(6)
from system.tables
where concat(database, '.', name) = {table:String}

-- name: record_dropped_trades
insert into deribit_raw.dropped_trades (instrument_name, currency, kind, first_seq, last_seq)
with

trades as (
    select instrument_name, trade_seq, any(currency) as currency, any(kind) as kind
    from <trades>
    where toYYYYMM(timestamp) = {month:UInt32}
    group by instrument_name, trade_seq
),

numbered as (
    -- Seq minus rank is constant within a run of consecutive seqs.
    select *, trade_seq - row_number() over (partition by instrument_name order by trade_seq) as run
    from trades
)

select instrument_name, any(currency), any(kind), min(trade_seq), max(trade_seq)
from numbered
group by instrument_name, run
