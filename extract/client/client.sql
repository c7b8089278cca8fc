-- Questions of the Python client. Parameters are bound; `<direction>` and `<limit>` are fixed texts. An empty array or '' is no filter.

-- name: trades
select *
from deribit.trades
where
    instrument_name in {instruments:Array(String)}
    and timestamp >= fromUnixTimestamp64Milli({since_ms:Int64}, 'UTC')
    and timestamp < fromUnixTimestamp64Milli({until_ms:Int64}, 'UTC')
    and (not {book_only:Bool} or is_book)
order by instrument_name, trade_seq <direction>
<limit>

-- name: candles
select *
from deribit.ohlcv_<level>
where
    instrument_name in {instruments:Array(String)}
    and bucket_at >= fromUnixTimestamp64Milli({since_ms:Int64}, 'UTC')
    and bucket_at < fromUnixTimestamp64Milli({until_ms:Int64}, 'UTC')
order by instrument_name, bucket_at <direction>
<limit>

-- name: instruments
select *
from deribit.instruments
where
    ({currency:String} = '' or underlying = {currency:String})
    and ({kind:String} = '' or kind = {kind:String})
    and (
        {expired:String} = ''
        or ifNull(expires_at <= fromUnixTimestamp64Milli({now_ms:Int64}, 'UTC'), false) = ({expired:String} = 'true')
    )
order by instrument_name

-- name: option_chain
select *
from deribit.option_chain_at(
    underlying = {currency:String}, at = fromUnixTimestamp64Milli({at_ms:Int64}, 'UTC')
)
qualify bucket_at = max(bucket_at) over ()
order by settlement_currency, expiry, strike, option_type

-- name: smile
select *
from deribit.iv_smile_1h
where
    <recent_hours>
qualify bucket_at = max(bucket_at) over ()
order by settlement_currency, expiry, delta

-- name: term_structure
select *
from deribit.iv_tenors_1h
where
    <recent_hours>
qualify bucket_at = max(bucket_at) over ()
order by settlement_currency, tenor_days

-- name: recent_hours
-- The last hours before a time, counted back from the newest option trade at or before it.
underlying = {currency:String}
and bucket_at <= fromUnixTimestamp64Milli({at_ms:Int64}, 'UTC')
and bucket_at > (
    select max(least(last_at, fromUnixTimestamp64Milli({at_ms:Int64}, 'UTC'))) - toIntervalHour({hours:UInt32})
    from deribit.instrument_ends final
    where
        kind = 'option'
        and underlying = {currency:String}
        and first_at <= fromUnixTimestamp64Milli({at_ms:Int64}, 'UTC')
)

-- name: funding
select *
from deribit.funding_<level>
where
    instrument_name = {instrument:String}
    and <time> >= fromUnixTimestamp64Milli({since_ms:Int64}, 'UTC')
    and <time> < fromUnixTimestamp64Milli({until_ms:Int64}, 'UTC')
order by <time>

-- name: settlements
select *
from deribit.settlements
where
    instrument_name = {instrument:String}
    and timestamp >= fromUnixTimestamp64Milli({since_ms:Int64}, 'UTC')
    and timestamp < fromUnixTimestamp64Milli({until_ms:Int64}, 'UTC')
order by timestamp, type

-- name: outcomes
select *
from deribit.option_outcomes
where
    underlying = {currency:String}
    and expires_at >= fromUnixTimestamp64Milli({since_ms:Int64}, 'UTC')
    and expires_at < fromUnixTimestamp64Milli({until_ms:Int64}, 'UTC')
order by expires_at, instrument_name

-- name: streams_of_instruments
-- Known from their trades or from a listing; an instrument without a row is unknown.
select toString(instrument_name) as instrument_name, toString(currency) as currency, toString(kind) as kind
from deribit.instrument_ends
where instrument_name in {instruments:Array(String)}
union distinct
select
    toString(listed.instrument_name) as instrument_name,
    toString(listed.currency) as currency,
    toString(ifNull(listed.kind, '')) as kind
from <instruments> as listed
where listed.instrument_name in {instruments:Array(String)}

-- name: underlyings
select distinct toString(underlying) as underlying
from deribit.instrument_ends
where underlying is not null
order by underlying

-- name: created_of_instruments
-- When the first of some instruments was created, in ms; 0 where that is not known of each.
select min(ifNull(toUnixTimestamp64Milli(created_at), 0)) as created_ms
from deribit.instruments
where instrument_name in {instruments:Array(String)}

-- name: created_of_outcomes
-- The same of the options of a coin that expired in a time; its start where none did.
select
    if(count() = 0, {since_ms:Int64}, min(ifNull(toUnixTimestamp64Milli(created_at), 0))) as created_ms
from deribit.instruments
where
    underlying = {currency:String}
    and kind = 'option'
    and expires_at >= fromUnixTimestamp64Milli({since_ms:Int64}, 'UTC')
    and expires_at < fromUnixTimestamp64Milli({until_ms:Int64}, 'UTC')

-- name: options_of_currency
select distinct toString(currency) as currency, toString(kind) as kind
from deribit.instrument_ends
where underlying = {currency:String} and kind in ('option', 'future')
order by currency, kind

-- name: streams
select distinct toString(currency) as currency, toString(kind) as kind from deribit.instrument_ends
order by currency, kind

-- name: neighbours
-- Times of the trades next to gaps.
select instrument_name, trade_seq, toUnixTimestamp64Milli(timestamp) as at_ms
from deribit.trades
where
    instrument_name in {instruments:Array(String)}
    and (instrument_name, trade_seq) in {keys:Array(Tuple(String, Int64))}
