-- Loaded instruments, and sequence numbers of loaded trades and rejected records. `<name>` is a raw table; one that does
-- not exist is read as empty.
--
-- Parameters: `currency`, `kind`, `names`; `from_ms` and `to_ms`, both included; `load_id`, below which no load package
-- can hold trades of this time, and from which on <recent_trades> are.

-- name: in_time
currency = {currency:String} and kind = {kind:String}

-- name: last_seqs
select instrument_name, max(trade_seq)
from (
    select instrument_name, trade_seq
    from <recent_trades>
    where
        <in_time>
        and instrument_name in {names:Array(String)}
        and timestamp between fromUnixTimestamp64Milli({from_ms:Int64}) and fromUnixTimestamp64Milli({to_ms:Int64})
    union all
    select
        <rejected_name> as instrument_name,
        <rejected_seq> as trade_seq
    from <rejected_trades>
    where
        <in_time>
        and instrument_name in {names:Array(String)}
        and <rejected_ms> between {from_ms:Int64} and {to_ms:Int64}
)
where trade_seq > 0
group by instrument_name

-- name: first_seqs
select instrument_name, min(trade_seq)
from (
    select instrument_name, trade_seq
    from <trades>
    where
        <in_time>
        and timestamp between fromUnixTimestamp64Milli({from_ms:Int64}) and fromUnixTimestamp64Milli({to_ms:Int64})
    union all
    select
        <rejected_name> as instrument_name,
        <rejected_seq> as trade_seq
    from <rejected_trades>
    where <in_time> and <rejected_ms> between {from_ms:Int64} and {to_ms:Int64}
    union all
    select instrument_name, first_seq as trade_seq
    from <dropped_trades>
    where <in_time>
)
where trade_seq > 0
group by instrument_name

-- name: last_dropped
-- Trades that retention dropped; their times are not known any more.
select instrument_name, max(last_seq)
from <dropped_trades>
where <in_time> and instrument_name in {names:Array(String)}
group by instrument_name

-- name: indexes
-- Indexes of the options and futures of a currency.
select distinct instruments.price_index
from <instruments> as instruments
where instruments.currency = {currency:String} and instruments.kind in ('option', 'future') and ifNull(instruments.price_index, '') != ''
order by instruments.price_index

-- name: live_instruments
-- The newest row of each instrument that was live in it.
select <instrument_columns>
from (
    select *
    from <instruments>
    where <in_time>
    order by _dlt_load_id desc
    limit 1 by instrument_name
)
where ifNull(is_active, true)

-- name: trade_ids
-- Ids of the trades of one instrument that were loaded first. Parameters: `name`, `seqs`.
select trade_seq, argMin(trade_id, _dlt_load_id)
from <trades>
where <in_time> and instrument_name = {name:String} and trade_seq in {seqs:Array(Int64)}
group by trade_seq

-- name: contents
-- The newest version of each trade.
select <trade_columns>
from <recent_trades>
where
    <in_time>
    and instrument_name in {names:Array(String)}
    and timestamp between fromUnixTimestamp64Milli({from_ms:Int64}) and fromUnixTimestamp64Milli({to_ms:Int64})
order by _dlt_load_id desc
limit 1 by instrument_name, trade_seq
