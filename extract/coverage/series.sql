-- What is proven, missing and absent of the series besides trades; only this file defines what counts as missing of them.
--
-- `<name>` is another statement of this file, or the rows of a raw table that finished load packages brought; a table that
-- does not exist yet is read as an empty one. No statement reads a raw table in another way.

-- name: latest_coverage
-- One row per key of a series: its newest `series_coverage`. A key of which no row was loaded covers no time.
select
    coverage.series as series,
    coverage.series_key as series_key,
    max(coverage._dlt_load_id) as load_id,
    argMax(coverage.covered_from, coverage._dlt_load_id) as covered_from,
    argMax(coverage.covered_to, coverage._dlt_load_id) as covered_to,
    argMax(coverage.loaded_rows, coverage._dlt_load_id) as loaded_rows,
    argMax(coverage.checked_at, coverage._dlt_load_id) as checked_at,
    argMax(tuple(coverage.disagreement), coverage._dlt_load_id).1 as disagreement
from <series_coverage> as coverage
group by series, series_key

-- name: status
select latest.series, latest.series_key, latest.covered_from, latest.covered_to, latest.loaded_rows, latest.disagreement, loads.inserted_at
from (<latest_coverage>) as latest
inner join <finished_loads> as loads on latest.load_id = loads.load_id
where latest.loaded_rows > 0
order by latest.series, latest.series_key

-- name: promised_coverage
-- As `latest_coverage`, with the time since when rows must exist: the beginning where none was loaded. `is_absent`: none
-- was loaded although series were requested a day later.
select
    latest.series as series,
    latest.series_key as series_key,
    if(latest.loaded_rows = 0, toDateTime64(0, 3, 'UTC'), latest.covered_from) as covered_from,
    latest.covered_to as covered_to,
    latest.loaded_rows as loaded_rows,
    latest.checked_at as checked_at,
    latest.loaded_rows = 0
    and latest.checked_at + toIntervalDay(1) <= (select max(coverage.checked_at) from <series_coverage> as coverage) as is_absent
from (<latest_coverage>) as latest

-- name: expired
-- Instruments that expired, each with its kind, index and expiry.
select
    instruments.instrument_name as instrument_name,
    any(instruments.currency) as currency,
    any(ifNull(instruments.kind, '')) as kind,
    any(ifNull(instruments.price_index, '')) as price_index,
    assumeNotNull(max(instruments.expiration_timestamp)) as expired_at
from <instruments> as instruments
where instruments.kind in ('option', 'future') and ifNull(instruments.settlement_period, '') != 'perpetual'
group by instruments.instrument_name
having expired_at > fromUnixTimestamp64Milli(0) and expired_at < toDateTime64('2100-01-01', 3, 'UTC')

-- name: grid_gaps
-- Hours, candles and counted rows that the newest load package of a key reports as missing. The exchange does not have those
-- that were requested again a day after they were missing first.
with

latest as (
    <latest_coverage>
),

reports as (
    select
        gaps.series as series,
        gaps.series_key as series_key,
        gaps.first_at as first_at,
        gaps.last_at as last_at,
        max(gaps.missing_rows) as missing,
        any(gaps.detail) as detail,
        max(gaps._dlt_load_id) as load_id,
        min(coverage.checked_at) as first_checked_at
    from <series_gaps> as gaps
    inner join <series_coverage> as coverage
        on gaps.series = coverage.series and gaps.series_key = coverage.series_key
        and gaps._dlt_load_id = coverage._dlt_load_id
    group by series, series_key, first_at, last_at
)

select
    reports.series as series,
    reports.series_key as series_key,
    reports.first_at as first_at,
    reports.last_at as last_at,
    reports.missing as missing,
    reports.detail as detail,
    reports.series in ('funding_rates', 'volatility_index')
    and latest.checked_at >= reports.first_checked_at + toIntervalDay(1) as known_absent
from reports
inner join latest
    on reports.series = latest.series and reports.series_key = latest.series_key and reports.load_id = latest.load_id

-- name: unpriced_days
-- Expiry days without a delivery price of their index, from the first loaded day, or the beginning if none was loaded, to an hour
-- before the last request.
with

days as (
    select price_index, toDate(expired_at, 'UTC') as day, count() as instruments
    from (<expired>)
    where price_index != ''
    group by price_index, day
)

select
    'delivery_prices' as series,
    days.price_index as series_key,
    toDateTime64(days.day, 3, 'UTC') + toIntervalHour(8) as first_at,
    first_at as last_at,
    toInt64(1) as missing,
    concat('no delivery price of the day on which ', toString(days.instruments), ' instruments expired') as detail,
    latest.is_absent as known_absent
from days
inner join (<promised_coverage>) as latest on latest.series = 'delivery_prices' and latest.series_key = days.price_index
where
    first_at between latest.covered_from and greatest(latest.covered_to, latest.checked_at - toIntervalHour(1))
    and (days.price_index, days.day) not in (select index_name, `date` from <delivery_prices>)

-- name: undelivered
-- Expiries of which instruments that were traded have no delivery. The feed lacks some; where the delivery price of the
-- index is loaded, it has what the delivery would show.
with

final_days as (
    select expired.currency as currency, expired.kind as kind, expired.price_index as price_index, expired.expired_at as expired_at, expired.instrument_name as instrument_name
    from (<expired>) as expired
    inner join (<promised_coverage>) as latest
        on latest.series = 'settlements' and latest.series_key = concat(expired.currency, ' delivery')
    where
        expired.expired_at
        between latest.covered_from and greatest(latest.covered_to, latest.checked_at - toIntervalHour(1))
        and expired.instrument_name not in (select instrument_name from <settlements> where type = 'delivery')
        and expired.instrument_name in (select distinct instrument_name from <trades>)
)

select
    'settlements' as series,
    concat(currency, ' delivery') as series_key,
    expired_at as first_at,
    expired_at as last_at,
    toInt64(count()) as missing,
    concat(
        'no delivery of ',
        arrayStringConcat(arraySlice(arraySort(groupArray(instrument_name)), 1, 5), ', '),
        if(count() > 5, ' …', '')
    ) as detail,
    (price_index, toDate(expired_at, 'UTC')) in (select index_name, `date` from <delivery_prices>) as known_absent
from final_days
group by currency, kind, price_index, expired_at

-- name: unfunded
-- Hours of perpetuals that were traded and of which no funding rate was loaded. The rate of an hour is requested a minute
-- after its end.
with

keys as (
    select series_key, checked_at, is_absent
    from (<promised_coverage>)
    where series = 'funding_rates' and loaded_rows = 0
),

traded as (
    select
        trades.instrument_name as instrument_name,
        toStartOfHour(min(trades.timestamp)) + toIntervalHour(1) as first_at,
        toStartOfHour(max(trades.timestamp)) as last_at
    from <trades> as trades
    where trades.instrument_name in (select series_key from keys)
    group by instrument_name
)

select
    'funding_rates' as series,
    keys.series_key as series_key,
    toDateTime64(traded.first_at, 3, 'UTC') as first_at,
    toDateTime64(least(traded.last_at, toStartOfHour(keys.checked_at - toIntervalMinute(1))), 3, 'UTC') as last_at,
    toInt64(dateDiff('hour', first_at, last_at) + 1) as missing,
    'no funding rate of a perpetual that was traded' as detail,
    keys.is_absent as known_absent
from keys
inner join traded on keys.series_key = traded.instrument_name
where first_at <= last_at

-- name: gaps
with

final as (
    select series, series_key, first_at, last_at, missing, detail, known_absent from (<grid_gaps>)
    union all
    select series, series_key, first_at, last_at, missing, detail, known_absent from (<unpriced_days>)
    union all
    select series, series_key, first_at, last_at, missing, detail, known_absent from (<undelivered>)
    union all
    select series, series_key, first_at, last_at, missing, detail, known_absent from (<unfunded>)
)

select * from final
order by series, series_key, first_at

-- name: unproven
-- Keys whose answers could not be used, and that were not loaded since.
with

failures as (
    select
        rejected.series as series,
        rejected.series_key as series_key,
        max(rejected._dlt_load_id) as load_id,
        argMax(rejected.reason, rejected._dlt_load_id) as reason
    from <rejected_records> as rejected
    where JSONHas(rejected.raw, 'unproven_to_ms') and not JSONHas(rejected.raw, 'timestamp')
    group by series, series_key
)

select failures.series, failures.series_key, failures.reason
from failures
left join (<latest_coverage>) as latest on failures.series = latest.series and failures.series_key = latest.series_key
where latest.load_id < failures.load_id
order by failures.series, failures.series_key
