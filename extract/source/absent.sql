-- Trades that the exchange did not have when they were requested by number.
--
-- Parameters: those of coverage.sql, and `now_ms` (Int64). `<name>` is another statement of this file, or the rows of a
-- raw table that finished load packages brought.

-- name: in_scope
(empty({currencies:Array(String)}) or currency in {currencies:Array(String)})
        and (empty({kinds:Array(String)}) or kind in {kinds:Array(String)})

-- name: absent_ranges
-- One row per range of trades that are absent: when the exchange lacked them first and last, in ms.
--
-- The exchange may fill in a trade later, so absence is provisional until the range was requested again an hour or more
-- after the first request. It is due to be requested again an hour, a day and a week after the first request.
with

requests as (
    select
        instrument_name,
        currency,
        kind,
        absent.first_seq as first_seq,
        least(absent.last_seq, {max_seq:Int64}) as last_seq,
        toUnixTimestamp64Milli(min(absent.found_at)) as first_ms,
        toUnixTimestamp64Milli(max(absent.found_at)) as last_ms,
        0 as is_recovery
    from <absent_trades> as absent
    where <in_scope> and absent.first_seq <= {max_seq:Int64}
    group by all
    union all
    select
        instrument_name,
        currency,
        kind,
        recovered.first_seq as first_seq,
        least(recovered.last_seq, {max_seq:Int64}) as last_seq,
        toUnixTimestamp64Milli(min(recovered.found_at)) as first_ms,
        toUnixTimestamp64Milli(max(recovered.found_at)) as last_ms,
        1 as is_recovery
    from <recovered_trades> as recovered
    where <in_scope> and recovered.first_seq <= {max_seq:Int64}
    group by all
),

edges as (
    select distinct instrument_name, arrayJoin([first_seq, last_seq + 1]) as seq
    from requests
),

parts as (
    -- Within a part, every trade was requested at the same times.
    select
        instrument_name,
        seq as part_first,
        leadInFrame(seq) over (
            partition by instrument_name order by seq rows between current row and 1 following
        ) - 1 as part_last
    from edges
),

final as (
    select
        parts.instrument_name as instrument_name,
        any(requests.currency) as currency,
        any(requests.kind) as kind,
        parts.part_first as first_seq,
        parts.part_last as last_seq,
        minIf(requests.first_ms, not requests.is_recovery) as first_ms,
        maxIf(requests.last_ms, not requests.is_recovery) as last_ms,
        last_ms < first_ms + 3600000 as is_provisional,
        arrayExists(
            age_ms -> first_ms + age_ms <= {now_ms:Int64} and last_ms < first_ms + age_ms,
            [3600000, 86400000, 604800000]
        ) as is_due
    from parts
    inner join requests on parts.instrument_name = requests.instrument_name
    where parts.part_first between requests.first_seq and requests.last_seq
    group by parts.instrument_name, parts.part_first, parts.part_last
    having
        countIf(not requests.is_recovery) > 0
        and (countIf(requests.is_recovery) = 0 or maxIf(requests.last_ms, requests.is_recovery) < last_ms)
)

select * from final

-- name: due_ranges
-- Absent ranges that are due to be requested again. Their order changes every minute, so that instruments whose requests
-- always fail do not exclude others by the limit.
select instrument_name, currency, kind, first_seq, last_seq
from (<absent_ranges>)
where is_due
order by cityHash64(instrument_name, intDiv({now_ms:Int64}, 60000)), instrument_name, first_seq
limit {most:UInt64}

-- name: loaded_ranges
-- Ranges of loaded trades within `due_ranges`: they were loaded without a request by number.
with

loaded as (
    select distinct trades.instrument_name as instrument_name, due.currency as currency, due.kind as kind, trade_seq
    from <trades> as trades
    inner join (<due_ranges>) as due on trades.instrument_name = due.instrument_name
    where trades.trade_seq between due.first_seq and due.last_seq
),

numbered as (
    -- Seq minus rank is constant within a run of consecutive seqs.
    select *, trade_seq - row_number() over (partition by instrument_name order by trade_seq) as run
    from loaded
)

select instrument_name, any(currency), any(kind), min(trade_seq), max(trade_seq)
from numbered
group by instrument_name, run
order by instrument_name, run
