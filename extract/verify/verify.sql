-- Statements of `tape verify`. `<level>` is a level of candles, `<raw table>` the rows of finished load packages.

-- name: loads_pending
-- Finished load packages that the models have not consumed.
select count()
from <finished_loads>
where toString(load_id) not in (select load_id from deribit.consumed_loads)

-- name: charts
-- Charts to compare: first those with bars since then that failed when they were last compared, then those that were never
-- compared, then those compared or set aside longest ago; in random order, which is always the same. One that was set aside
-- does not come first.
with

checks as (
    select
        instrument_name,
        window_at,
        max(checked_at) as last_checked_at,
        maxIf(checked_at, classification = 'set_aside') = last_checked_at as is_set_aside
    from deribit.candle_checks
    where level = {level:String}
    group by instrument_name, window_at
),

failures as (
    select instrument_name, window_at, bucket_at, max(checked_at) as failed_at
    from deribit.candle_checks
    where
        level = {level:String} and classification in ('missing', 'unexplained')
        and toUnixTimestamp(bucket_at) >= {since_s:Int64}
    group by instrument_name, window_at, bucket_at
),

failed_bars as (
    select failures.instrument_name as instrument_name, failures.window_at as window_at
    from deribit.candle_checks as comparisons
    inner join failures
        on failures.instrument_name = comparisons.instrument_name and failures.window_at = comparisons.window_at
    where
        comparisons.level = {level:String} and comparisons.classification = 'compared'
        and failures.bucket_at between comparisons.bucket_at and comparisons.last_bucket_at
    group by instrument_name, window_at, failures.bucket_at, failures.failed_at
    having max(comparisons.checked_at) = failures.failed_at
),

windows as (
    select distinct
        instrument_name,
        toDateTime(intDiv(toUnixTimestamp(bucket_at), {window_s:Int64}) * {window_s:Int64}, 'UTC') as window_at
    from deribit.ohlcv_1d
    where
        (empty({names:Array(String)}) or instrument_name in {names:Array(String)})
        and toUnixTimestamp(window_at) + {window_s:Int64} > {since_s:Int64}
)

select windows.instrument_name, toUnixTimestamp(windows.window_at)
from windows
left join checks
    on checks.instrument_name = windows.instrument_name and checks.window_at = windows.window_at
order by
    not checks.is_set_aside
    and (windows.instrument_name, windows.window_at) in (select instrument_name, window_at from failed_bars) desc,
    checks.last_checked_at,
    cityHash64(windows.instrument_name, windows.window_at, {level:String})
limit {most:UInt64}

-- name: instruments
-- Currency, kind and expiry of instruments.
select
    instruments.instrument_name as instrument_name,
    any(instruments.currency) as currency,
    any(ifNull(instruments.kind, '')) as kind,
    max(ifNull(toUnixTimestamp64Milli(instruments.expiration_timestamp), 0)) as expiry_ms
from <instruments> as instruments
where instruments.instrument_name in {names:Array(String)}
group by instruments.instrument_name

-- name: candles
select
    toUnixTimestamp(bucket_at) as at_s,
    toString(kind),
    open, high, low, close, volume, notional, trade_count,
    book_open, book_high, book_low, book_close, book_volume, book_notional, book_trade_count
from deribit.ohlcv_<level>
where
    instrument_name = {name:String}
    and bucket_at >= toDateTime({from_s:Int64}, 'UTC') and bucket_at < toDateTime({to_s:Int64}, 'UTC')
order by at_s

-- name: trades
-- Trades of a time, and those of some numbers at any time.
select
    trade_seq,
    toUnixTimestamp64Milli(timestamp),
    price,
    amount,
    volume,
    notional,
    is_block or block_rfq_id is not null,
    is_combo_leg
from deribit.trades
where
    instrument_name = {name:String}
    and (
        timestamp >= fromUnixTimestamp64Milli({from_ms:Int64}) and timestamp < fromUnixTimestamp64Milli({to_ms:Int64})
        or trade_seq in {seqs:Array(Int64)}
    )
order by trade_seq

-- name: trades_by_minute
-- Number of trades of each minute of a day, in the models and in the raw table.
select toUnixTimestamp(toStartOfMinute(at)) as at_s, countIf(is_raw = 0), countIf(is_raw = 1)
from (
    select trade_seq, any(timestamp) as at, 0 as is_raw
    from deribit.trades
    where
        instrument_name = {name:String}
        and timestamp >= fromUnixTimestamp64Milli({from_ms:Int64}) and timestamp < fromUnixTimestamp64Milli({to_ms:Int64})
    group by trade_seq
    union all
    select trade_seq, argMax(timestamp, _dlt_load_id) as at, 1 as is_raw
    from <trades>
    where
        instrument_name = {name:String}
        and timestamp >= fromUnixTimestamp64Milli({from_ms:Int64}) and timestamp < fromUnixTimestamp64Milli({to_ms:Int64})
    group by trade_seq
)
group by at_s

-- name: dropped_months
-- Months that retention dropped from the table of a level of candles, or from the trades; a rebuilt table has them again.
select distinct month from deribit.retention_drops
where table_id in (select uuid from system.tables where concat(database, '.', name) = {table:String})
