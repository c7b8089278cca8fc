-- Questions of the API. `<name>` is another statement, a part that the code chooses from its own fixed texts, or a raw table,
-- reduced to finished load packages; values of a request are parameters only. Times are text in UTC.

-- name: version
-- A digest that changes whenever a load package, a refresh of the models, a push or a drop of old months is finished.
select lower(hex(cityHash64(arraySort(groupArray((tables.database, tables.name, tables.total_rows)))))) as version
from system.tables as tables
where
    tables.database in ('deribit', 'deribit_raw')
    and tables.name in (
        '_dlt_loads', 'coverage', 'dropped_trades', 'pushes', 'consumed_loads', 'refresh_log', 'verified_months',
        'retention_drops', 'candle_checks'
    )

-- name: server
select version() as version

-- name: spans
select
    currency,
    kind,
    toUnixTimestamp64Milli(covered_from) as from_ms,
    toUnixTimestamp64Milli(covered_to) as to_ms
from deribit.covered_spans
order by currency, kind, from_ms

-- name: holes
-- Instruments with missing numbers, and expired ones whose last number is known. Without any there is no gap.
select
    (
        select count()
        from deribit.instrument_tallies as tallies
        where bitmapMax(tallies.seqs) > bitmapCardinality(tallies.seqs)
    ) + (select count() from deribit.stg_deribit__instrument_tails) as instruments

-- name: gaps
select
    instrument_name,
    first_missing_seq,
    last_missing_seq,
    missing,
    place as `where`,
    is_absent as known_absent,
    currency,
    kind,
    after_at,
    before_at,
    toUnixTimestamp64Milli(after_at) as after_ms,
    toUnixTimestamp64Milli(before_at) as before_ms
from deribit.coverage_gaps
order by instrument_name, first_missing_seq

-- name: progress
select * from deribit.backfill_progress
order by currency, kind

-- name: instrument_counts
select currency, kind, count() as instruments
from deribit.instrument_ends final
group by currency, kind

-- name: recent_loads
-- Trades and milliseconds of market time that each stream gained in `seconds` seconds: between the first and the last load
-- package of the last ten minutes.
with

recent as (
    select load_id, inserted_at
    from <finished_loads>
    where inserted_at >= now64(6, 'UTC') - toIntervalMinute(10)
),

ends as (
    select min(recent.inserted_at) as first_at, max(recent.inserted_at) as last_at from recent
),

later as (
    select recent.load_id from recent where recent.inserted_at > (select ends.first_at from ends)
),

covered as (
    select
        coverage.currency as currency,
        coverage.kind as kind,
        coverage.covered_from as covered_from,
        max(coverage.covered_to) as covered_to,
        maxIf(coverage.covered_to, coverage._dlt_load_id not in (select later.load_id from later)) as covered_before
    from <coverage> as coverage
    group by currency, kind, covered_from
),

gained as (
    select
        currency,
        kind,
        toInt64(0) as trades,
        sum(dateDiff('millisecond', greatest(covered_before, covered_from), covered_to)) as covered_ms
    from covered
    group by currency, kind
    union all
    select currency, kind, toInt64(count()) as trades, toInt64(0) as covered_ms
    from <trades>
    where _dlt_load_id in (select later.load_id from later)
    group by currency, kind
)

select
    gained.currency as currency,
    gained.kind as kind,
    sum(gained.trades) as trades,
    sum(gained.covered_ms) as covered_ms,
    (select dateDiff('millisecond', ends.first_at, ends.last_at) from ends) / 1000 as seconds
from gained
group by currency, kind

-- name: prices
select * from deribit.current_prices
order by instrument_name

-- name: newest_trade
select toUnixTimestamp64Milli(max(last_at)) as newest_ms
from deribit.instrument_ends final

-- name: newest_hour_of
-- The newest hour with rows within some hours of the newest trade, 0 without one.
select toInt64(toUnixTimestamp(max(bucket_at))) * 1000 as hour_ms
from deribit.<table>
where
    underlying = {currency:String}
    and bucket_at > fromUnixTimestamp64Milli({newest_ms:Int64}, 'UTC') - toIntervalHour({hours:UInt32})

-- name: newest_hour_of_chain
-- The newest hour with a live option, which may have expired some hours before the newest trade, 0 or null without one.
select toInt64(toUnixTimestamp(max(toStartOfHour(least(
    expiry - toIntervalSecond(1), fromUnixTimestamp64Milli({newest_ms:Int64}, 'UTC')
))))) * 1000 as hour_ms
from deribit.instrument_ends final
where
    kind = 'option'
    and underlying = {currency:String}
    and first_at < expiry
    and expiry > fromUnixTimestamp64Milli({newest_ms:Int64}, 'UTC') - toIntervalHour({hours:UInt32})

-- name: underlyings
select distinct toString(underlying) as name
from deribit.instrument_ends final
where underlying is not null

-- name: indexes
select distinct index_name as name from deribit.delivery_prices

-- name: instrument_facts
-- Stream and times of one instrument, known from its trades or from a listing; no row if it is unknown.
with

facts as (
    select
        toString(ends.currency) as currency,
        toString(ends.kind) as kind,
        toString(ends.underlying) as underlying,
        cast(null as Nullable(Int64)) as created_ms,
        toInt64(toUnixTimestamp(ends.expiry)) * 1000 as expires_ms
    from deribit.instrument_ends as ends final
    where ends.instrument_name = {name:String}
    union all
    select
        toString(listed.currency) as currency,
        toString(ifNull(listed.kind, '')) as kind,
        toString(ifNull(listed.base_currency, '')) as underlying,
        toUnixTimestamp64Milli(listed.creation_timestamp) as created_ms,
        if(listed.settlement_period = 'perpetual', null, toUnixTimestamp64Milli(listed.expiration_timestamp)) as expires_ms
    from <instruments> as listed
    where listed.instrument_name = {name:String}
)

select
    max(currency) as currency,
    max(kind) as kind,
    max(underlying) as underlying,
    min(created_ms) as created_ms,
    max(expires_ms) as expires_ms
from facts
having count() > 0

-- name: page
-- One page of a list, after the row that a cursor names.
select * from (<rows>)
where <after> and <until_last>
order by <order>
limit {limit:UInt64}

-- name: page_end
-- The key of the last row of a page, and of the first row of the next one.
select <key> from (<rows>)
where <after>
order by <order>
limit 2 offset {limit:UInt64} - 1

-- name: with_arrow_times
-- Times of whole seconds as times, which Arrow has in milliseconds, and not as numbers.
select * replace (<columns>) from (<answer>)

-- name: instruments
select * from deribit.instruments
where
    ({currency:String} = '' or underlying = {currency:String})
    and ({kind:String} = '' or kind = {kind:String})
    and ({settlement_currency:String} = '' or settlement_currency = {settlement_currency:String})
    and ({expired:Int8} < 0 or ifNull(expires_at <= now64(3, 'UTC'), 0) = {expired:Int8})
    and ({expiry:String} = '' or toString(toDate(expires_at)) = {expiry:String})
    and startsWith(instrument_name, {prefix:String})

-- name: instrument
select * from deribit.instruments
where instrument_name = {name:String}

-- name: trades
select * from deribit.trades
where
    instrument_name = {name:String}
    and timestamp >= {since:DateTime64(3, 'UTC')}
    and timestamp < {until:DateTime64(3, 'UTC')}
    and ({is_block:Int8} < 0 or is_block = {is_block:Int8})
    and ({is_liquidation:Int8} < 0 or is_liquidation = {is_liquidation:Int8})
    and ({is_book:Int8} < 0 or is_book = {is_book:Int8})
    and <range>

-- name: seq_ends
-- In the order of the sort key, so that few rows are read.
select
    (
        select trade_seq from deribit.trade_versions
        where instrument_name = {name:String}
        order by instrument_name, trade_seq
        limit 1
    ) as first_seq,
    (
        select trade_seq from deribit.trade_versions
        where instrument_name = {name:String}
        order by instrument_name desc, trade_seq desc
        limit 1
    ) as last_seq

-- name: seq_ends_of_time
-- Of all versions, so that the ends of the newest ones are between them.
select min(trade_seq) as first_seq, max(trade_seq) as last_seq from deribit.trade_versions
where
    instrument_name = {name:String}
    and timestamp >= {since:DateTime64(3, 'UTC')}
    and timestamp < {until:DateTime64(3, 'UTC')}

-- name: candles
select * from deribit.<table>
where
    instrument_name = {name:String}
    and bucket_at >= {since:DateTime64(3, 'UTC')}
    and bucket_at < {until:DateTime64(3, 'UTC')}

-- name: funding_1h
select * from deribit.funding_1h
where
    instrument_name = {name:String}
    and timestamp >= {since:DateTime64(3, 'UTC')}
    and timestamp < {until:DateTime64(3, 'UTC')}

-- name: funding_1d
select * from deribit.funding_1d
where
    instrument_name = {name:String}
    and toDateTime64(day, 3, 'UTC') >= {since:DateTime64(3, 'UTC')}
    and toDateTime64(day, 3, 'UTC') < {until:DateTime64(3, 'UTC')}

-- name: settlements
select * from deribit.settlements
where
    instrument_name = {name:String}
    and timestamp >= {since:DateTime64(3, 'UTC')}
    and timestamp < {until:DateTime64(3, 'UTC')}

-- name: open_interest
select * from deribit.open_interest_1d
where
    instrument_name = {name:String}
    and toDateTime64(day, 3, 'UTC') >= {since:DateTime64(3, 'UTC')}
    and toDateTime64(day, 3, 'UTC') < {until:DateTime64(3, 'UTC')}

-- name: open_interest_of_currency
-- Futures are in the unit of their trades' amount, so kinds and settlement currencies are not added up.
select
    day,
    toString(ifNull(settlement_currency, '')) as settlement_currency,
    if(option_type is null, 'future', 'option') as kind,
    sum(open_interest) as open_interest,
    count() as instruments,
    arrayStringConcat(arraySort(groupUniqArray(toString(source))), ', ') as source
from deribit.open_interest_1d
where
    underlying = {currency:String}
    and toDateTime64(day, 3, 'UTC') >= {since:DateTime64(3, 'UTC')}
    and toDateTime64(day, 3, 'UTC') < {until:DateTime64(3, 'UTC')}
group by day, settlement_currency, kind

-- name: option_outcome
select * from deribit.option_outcomes
where instrument_name = {name:String}

-- name: future_outcome
select * from deribit.futures_outcomes
where instrument_name = {name:String}

-- name: outcomes
select * from deribit.option_outcomes
where
    underlying = {currency:String}
    and expires_at >= {since:DateTime64(3, 'UTC')}
    and expires_at < {until:DateTime64(3, 'UTC')}

-- name: first_created
-- When the first option of an underlying that expired in a time was created, in ms: 0 where that is not known of each, and
-- the start of the time where none expired.
select
    if(
        count() = 0,
        toUnixTimestamp64Milli({since:DateTime64(3, 'UTC')}),
        min(ifNull(toUnixTimestamp64Milli(created_at), 0))
    ) as created_ms
from deribit.instruments
where
    underlying = {currency:String}
    and kind = 'option'
    and expires_at >= {since:DateTime64(3, 'UTC')}
    and expires_at < {until:DateTime64(3, 'UTC')}

-- name: dvol
select * from deribit.volatility_index_1h
where
    currency = {currency:String}
    and timestamp >= {since:DateTime64(3, 'UTC')}
    and timestamp < {until:DateTime64(3, 'UTC')}

-- name: deliveries
select * from deribit.delivery_prices
where
    index_name = {index:String}
    and toDateTime64(date, 3, 'UTC') >= {since:DateTime64(3, 'UTC')}
    and toDateTime64(date, 3, 'UTC') < {until:DateTime64(3, 'UTC')}

-- name: smile
select * from deribit.iv_smile_1h
where <newest_hour> and <expiry>
qualify bucket_at = max(bucket_at) over ()
order by settlement_currency, expiry, delta

-- name: term_structure
select * from deribit.iv_tenors_1h
where <newest_hour>
qualify bucket_at = max(bucket_at) over ()
order by settlement_currency, tenor_days

-- name: chain
select * from deribit.option_chain_at(underlying = {currency:String}, at = {at:String})
where <newest_hour> and <expiry>
qualify bucket_at = max(bucket_at) over ()
order by settlement_currency, expiry, strike, option_type

-- name: newest_hour
-- The newest hour of the two days before `at` that has rows.
underlying = {currency:String}
and ({settlement_currency:String} = '' or settlement_currency = {settlement_currency:String})
and bucket_at > toDateTime({at:String}, 'UTC') - toIntervalHour(48)
and bucket_at <= toDateTime({at:String}, 'UTC')

-- name: expiry
({expiry:String} = '' or toString(toDate(expiry)) = {expiry:String})
