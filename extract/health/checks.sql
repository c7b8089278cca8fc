-- Statements of `tape health`. `<name>`: the rows of a raw table that finished load packages brought.

-- name: tables
select database, name from system.tables where database in ('deribit_raw', 'deribit', 'deribit_runs')

-- name: odd_trades
select count() from deribit.odd_trades

-- name: loads_pending
-- How many finished load packages the models have not consumed, and since when.
select count(), min(inserted_at)
from <finished_loads>
where toString(load_id) not in (select load_id from deribit.consumed_loads)

-- name: untested_months
-- Comparisons by a `dbt build` whose data tests have not passed since, and when the first one was. A long build has hours to test.
select count(), min(verified.verified_at)
from deribit.verified_months as verified
left join (
    select model, month, max(tested_at) as tested_at from deribit.tested_months group by model, month
) as tested on verified.model = tested.model and verified.month = tested.month
where
    endsWith(verified.verified_by, ' build')
    and verified.verified_at > tested.tested_at
    and verified.verified_at < now64(6, 'UTC') - toIntervalHour(3)

-- name: candle_checks
-- Charts that `tape verify` compared, bars that were missing or unexplained when their time was last compared, and when a
-- chart was last compared.
with

failures as (
    select instrument_name, level, window_at, bucket_at, argMax(bars, checked_at) as failed, max(checked_at) as failed_at
    from deribit.candle_checks
    where classification in ('missing', 'unexplained')
    group by instrument_name, level, window_at, bucket_at
),

failed_bars as (
    select any(failures.failed) as failed
    from deribit.candle_checks as comparisons
    inner join failures
        on failures.instrument_name = comparisons.instrument_name and failures.level = comparisons.level
        and failures.window_at = comparisons.window_at
    where
        comparisons.classification = 'compared'
        and failures.bucket_at between comparisons.bucket_at and comparisons.last_bucket_at
    group by failures.instrument_name, failures.level, failures.bucket_at, failures.failed_at
    having max(comparisons.checked_at) = failures.failed_at
)

select
    uniqExact(instrument_name, level, window_at),
    (select sum(failed) from failed_bars),
    max(checked_at)
from deribit.candle_checks
where classification = 'compared'

-- name: months_pending
-- One row per month of local whose trades differ from those last verified on cloud, and since when.
with

local_loads as (
    select substring(toString(toDate(timestamp)), 1, 7) as month, toString(_dlt_load_id) as load_id, count() as trades
    from <trades>
    group by month, load_id
),

loads as (
    select toString(load_id) as load_id, max(inserted_at) as inserted_at
    from <finished_loads>
    group by load_id
),

verifications as (
    select partition_month as month, argMax(trades, proven_at) as trades_verified, max(proven_at) as verified_at
    from <pushes> as pushes
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

-- name: newest_trade
-- The newest trade of the models, in the newest month that is not in the future; only that month is read.
select max(timestamp)
from deribit.trade_versions
where
    timestamp <= now()
    and toYYYYMM(timestamp) = (
        select max(toUInt32OrZero(partition_id))
        from system.parts
        where active and database = 'deribit' and table = 'trade_versions' and partition_id <= toString(toYYYYMM(now()))
    )

-- name: newest_candle
-- Of one level: the bucket of the newest trade, and the newest candle up to then. Only the time just before it is read.
select
    '<level>' as level,
    toDateTime(<bucket>, 'UTC') as expected_at,
    max(bucket_at) as newest_at
from deribit.ohlcv_<level>
where bucket_at between expected_at - toIntervalDay(<days>) and expected_at

-- name: differing_candles
-- How many candles of a stored level differ from those of the finer level, on a few days: the last two that are over, and
-- an earlier one of the last year, another one each hour. Months that were dropped from a level are not compared.
with

days as (
    select arrayJoin([
        toDate(now('UTC')) - 1,
        toDate(now('UTC')) - 2,
        toDate(now('UTC')) - 3 - toInt32(toUnixTimestamp(now()) / 3600) % 362
    ]) as day
    where toYYYYMM(day) not in (<dropped_months>)
),

fine as (
    select
        instrument_name,
        toDateTime(<bucket>, 'UTC') as bucket,
        toUInt64(sum(candles.trade_count)) as trades,
        sum(candles.volume) as total,
        max(candles.high) as highest,
        min(candles.low) as lowest
    from deribit.ohlcv_<fine> as candles
    where toDate(candles.bucket_at, 'UTC') in (select days.day from days)
    group by instrument_name, bucket
),

coarse as (
    select
        instrument_name,
        bucket_at as bucket,
        toUInt64(trade_count) as trades,
        volume as total,
        high as highest,
        low as lowest
    from deribit.ohlcv_<coarse>
    where toDate(bucket_at, 'UTC') in (select days.day from days)
)

select count()
from fine
full outer join coarse on fine.instrument_name = coarse.instrument_name and fine.bucket = coarse.bucket
where (fine.trades, fine.total, fine.highest, fine.lowest) != (coarse.trades, coarse.total, coarse.highest, coarse.lowest)

-- name: dropped_months
select month from deribit.retention_drops

-- name: rejected
-- Records of the last day that could not be typed, with the most frequent reason. Time that was set aside counts as a gap.
with

recent as (
    select load_id from <finished_loads> where inserted_at > now() - toIntervalDay(1)
),

records as (
    select reason, raw from <rejected_trades> where _dlt_load_id in (select recent.load_id from recent)
    union all
    select reason, raw from <rejected_records> where _dlt_load_id in (select recent.load_id from recent)
)

select count(), topK(1)(records.reason)[1]
from records
where not JSONHas(records.raw, 'unproven_to_ms')

-- name: new_fields
-- Names of fields that no column has, in the load packages of the last day and in none before; none on the first day. Of
-- trades only the newest packages of the last day, and of the time before it, are read.
with

recent as (
    select load_id from <finished_loads> where inserted_at > now() - toIntervalDay(1)
),

earlier as (
    select load_id from <finished_loads> where inserted_at <= now() - toIntervalDay(1)
),

newest as (
    select recent.load_id as load_id from recent order by load_id desc limit 500
    union all
    select earlier.load_id as load_id from earlier order by load_id desc limit 500
)

select arrayJoin(JSONExtractKeys(assumeNotNull(extra))) as field
from (<rows_with_extra>)
where
    extra is not null
    and (not is_trade or _dlt_load_id in (select newest.load_id from newest))
    and (select count() from earlier) > 0
group by field
having min(_dlt_load_id in (select recent.load_id from recent)) = 1
order by field
limit 1000

-- name: new_streams
-- Currencies and kinds whose first instrument arrived in the last week, more than a day after the first load package.
with

firsts as (
    select
        instruments.currency as currency,
        ifNull(instruments.kind, '') as kind,
        min(loads.inserted_at) as first_at
    from <instruments> as instruments
    inner join <finished_loads> as loads on instruments._dlt_load_id = loads.load_id
    group by currency, kind
)

select currency, kind
from firsts
where
    first_at > now() - toIntervalDay(7)
    and first_at > (select min(inserted_at) from <finished_loads>) + toIntervalDay(1)
order by currency, kind

-- name: columns
select table, name, type from system.columns where database = 'deribit_raw'

-- name: last_runs
-- When the last run succeeded, how many have failed since, and the last error; null without a run.
with

(select max(ended_at) from deribit_runs.runs where not is_failed) as succeeded_at

select
    nullIf(succeeded_at, toDateTime64(0, 3, 'UTC')),
    countIf(ended_at > succeeded_at),
    argMax(error, ended_at)
from deribit_runs.runs

-- name: last_load
select nullIf(max(inserted_at), toDateTime64(0, 6, 'UTC')) from <finished_loads>

-- name: longest_run
-- The run of the last day that came closest to its time limit: per cent of it, and the limit in seconds.
select max((100 * dateDiff('millisecond', started_at, ended_at) / 1000 / limit_s, limit_s)), count()
from deribit_runs.runs
where limit_s > 0 and ended_at > now() - toIntervalDay(1)

-- name: last_backup
select nullIf(max(at), toDateTime64(0, 3, 'UTC')) from deribit_runs.backups where is_proven

-- name: growth
-- Bytes at rest of the last month and of this one.
select
    sumIf(bytes_on_disk, partition_id = toString(toYYYYMM(now('UTC') - toIntervalMonth(1)))),
    sumIf(bytes_on_disk, partition_id = toString(toYYYYMM(now('UTC'))))
from system.parts
where active and database in ('deribit_raw', 'deribit')
