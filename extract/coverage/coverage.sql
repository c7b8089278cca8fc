-- Coverage and gaps of the raw tables; only this file defines what counts as a gap.
--
-- Parameters: `currencies` and `kinds` (Array(String), empty = all), `epoch_ms` and `now_ms` (Int64), `max_seq` (Int64):
-- the greatest valid trade_seq; a greater one is not a trade, and adding 1 to it could overflow. `contradiction`: the
-- reason of rejected trades whose number another trade has.
-- `<name>` is another statement of this file or of absent.sql, or the rows of a raw table that finished load packages brought; a table
-- that does not exist yet is read as an empty one. No statement reads a raw table in another way.

-- name: detached_parts
-- Raw tables of which the server has set parts aside, because it could not read them or was told to. A replica fetches such
-- parts again.
select table, count() as parts
from system.detached_parts
where
    database = 'deribit_raw'
    and ifNull(reason, '') in ('', 'broken', 'broken-on-start')
    and table in (
        select name
        from system.tables
        where database = 'deribit_raw' and not match(engine, '^(Replicated|Shared)')
    )
group by table
order by table

-- name: covered_spans
-- One row per span of time whose trades are all loaded; spans of one stream are disjoint.
with

reported_spans as (
    -- A span grows by new rows with the same start; spans of different starts may overlap.
    select currency, kind, covered_from, max(covered_to) as covered_to
    from <coverage>
    where <in_scope>
    group by currency, kind, covered_from
),

compared_spans as (
    select
        *,
        covered_from > toIntervalMillisecond(1) + max(covered_to) over (
            partition by currency, kind order by covered_from
            rows between unbounded preceding and 1 preceding
        ) as is_disjoint
    from reported_spans
),

numbered_spans as (
    select *, sum(is_disjoint) over (partition by currency, kind order by covered_from) as span
    from compared_spans
),

final as (
    select currency, kind, min(covered_from) as covered_from, max(covered_to) as covered_to
    from numbered_spans
    group by currency, kind, span
    order by currency, kind, covered_from, covered_to
)

select * from final

-- name: unproven
-- Time of streams that a run set aside, and the reason; it may be covered since.
select
    currency,
    kind,
    JSONExtractInt(raw, 'unproven_from_ms') as from_ms,
    JSONExtractInt(raw, 'unproven_to_ms') as to_ms,
    any(reason) as reason
from <rejected_trades>
where <in_scope> and JSONHas(raw, 'unproven_from_ms') and not JSONHas(raw, 'trade_seq')
group by all
order by currency, kind, from_ms, to_ms

-- name: contradictions
-- Rejected trades whose trade_seq a loaded trade with another id has, one row per instrument.
with

rejected as (
    select
        currency,
        kind,
        <rejected_name> as instrument_name,
        <rejected_seq> as trade_seq,
        JSONExtractString(raw, 'trade_id') as trade_id
    from <rejected_trades>
    where <in_scope> and reason = {contradiction:String}
),

loaded as (
    select instrument_name, trade_seq, trade_id
    from <trades>
    where (instrument_name, trade_seq) in (select instrument_name, trade_seq from rejected)
),

final as (
    select
        instrument_name,
        any(currency) as currency,
        any(kind) as kind,
        min(trade_seq) as first_seq,
        max(trade_seq) as last_seq,
        uniqExact(trade_seq, trade_id) as trades
    from rejected
    where (instrument_name, trade_seq, trade_id) not in loaded
    group by instrument_name
    order by instrument_name
)

select * from final

-- name: unnumbered
-- Rejected trades whose record has no valid number, so that it cannot be known which trades are missing.
select currency, kind, uniqExact(raw) as records
from <rejected_trades>
where
    <in_scope>
    and <rejected_is_trade>
    and not (<rejected_seq> between 1 and {max_seq:Int64} and <rejected_name> != '')
group by currency, kind
order by currency, kind

-- name: rejected_streams
-- Streams of which trades are rejected.
select distinct currency, kind
from <rejected_trades>
where <in_scope> and <rejected_seq> between 1 and {max_seq:Int64}
order by currency, kind

-- name: gaps
-- One row per range of missing trade_seq, ordered. The server holds two bitmaps of the seqs of each instrument (a bit
-- per trade of a busy one, two bytes of a quiet one) and a row per gap.
with

covered as (
    <covered_spans>
),

rejected as (
    select
        currency,
        kind,
        <rejected_name> as instrument_name,
        <rejected_seq> as trade_seq
    from <rejected_trades>
    where <in_scope> and trade_seq between 1 and {max_seq:Int64}
),

known_seqs as (
    -- The last seq of an expired instrument, where it was fetched, is a row without a trade.
    select
        instrument_name,
        currency,
        kind,
        trade_seq,
        toInt64(0) as known_last,
        toInt64(0) as dropped_last,
        toInt64(0) as rejected_seq
    from <trades>
    where <in_scope> and trade_seq <= {max_seq:Int64}
    union all
    select instrument_name, currency, kind, toInt64(0) as trade_seq, last_seq as known_last, 0 as dropped_last, 0 as rejected_seq
    from <instrument_tails>
    where <in_scope> and last_seq <= {max_seq:Int64}
    union all
    -- Trades that `tape retention` dropped had been loaded.
    select instrument_name, currency, kind, toInt64(0) as trade_seq, 0 as known_last, last_seq as dropped_last, 0 as rejected_seq
    from <dropped_trades>
    where <in_scope>
    union all
    select instrument_name, currency, kind, toInt64(0) as trade_seq, 0 as known_last, 0 as dropped_last, rejected.trade_seq as rejected_seq
    from rejected
),

loaded_seqs as (
    select
        instrument_name,
        any(currency) as currency,
        any(kind) as kind,
        greatest(max(trade_seq), max(dropped_last)) as last_loaded,
        max(known_last) as last_known,
        if(last_known > last_loaded, [last_known + 1], []) as after_tail,
        arrayFilter(seq -> seq > last_loaded, groupUniqArrayIf(rejected_seq, rejected_seq > 0)) as rejected_after,
        groupBitmapState(toUInt64(trade_seq)) as seqs,
        groupBitmapState(toUInt64(trade_seq + 1)) as next_seqs
    from known_seqs
    group by instrument_name
),

bounded_seqs as (
    -- Seq 0 and the one after the known end are added, so that every hole has two neighbours.
    select
        instrument_name,
        currency,
        kind,
        last_loaded,
        rejected_after,
        bitmapOr(seqs, bitmapBuild(arrayMap(seq -> toUInt64(seq), arrayPushBack(after_tail, 0)))) as seqs,
        bitmapOr(next_seqs, bitmapBuild(arrayMap(seq -> toUInt64(seq + 1), arrayPushBack(after_tail, 0)))) as next_seqs
    from loaded_seqs
),

holes as (
    -- One row per range of missing seqs: from the end of one run of loaded seqs to the start of the next.
    -- bitmapToArray does not sort bitmaps of up to 32 numbers. A rejected trade after the last loaded one is a range, too:
    -- no later trade shows that it is missing.
    select
        instrument_name,
        currency,
        kind,
        arrayJoin(
            arrayConcat(
                arrayZip(
                    arrayPopBack(arraySort(bitmapToArray(bitmapAndnot(next_seqs, seqs)))),
                    arrayPopFront(arraySort(bitmapToArray(bitmapAndnot(seqs, next_seqs))))
                ),
                arrayMap(seq -> (toUInt64(seq), toUInt64(seq + 1)), rejected_after)
            )
        ) as hole,
        last_loaded,
        toInt64(hole.1) as first_seq,
        toInt64(hole.2) as next_seq
    from bounded_seqs
),

hole_edges as (
    -- Start (+1) and end (-1) of each hole and of each range that was dropped, which stays a range: its trades are not
    -- counted one by one.
    select instrument_name, currency, kind, last_loaded, edge.1 as seq, edge.2 as in_hole, 0 as in_dropped
    from holes
    array join [(first_seq, 1), (next_seq, -1)] as edge
    union all
    select instrument_name, currency, kind, toInt64(0) as last_loaded, edge.1 as seq, 0 as in_hole, edge.2 as in_dropped
    from <dropped_trades>
    array join [(first_seq, 1), (last_seq + 1, -1)] as edge
    where <in_scope>
),

hole_states as (
    select
        instrument_name,
        any(currency) as currency,
        any(kind) as kind,
        seq,
        max(max(last_loaded)) over (partition by instrument_name) as last_loaded,
        sum(sum(in_hole)) over by_seq > 0 and sum(sum(in_dropped)) over by_seq = 0 as is_open
    from hole_edges
    group by instrument_name, seq
    window by_seq as (partition by instrument_name order by seq)
),

hole_changes as (
    select
        *,
        lagInFrame(is_open) over (
            partition by instrument_name order by seq rows between 1 preceding and current row
        ) as was_open
    from hole_states
    qualify is_open != was_open
),

open_holes as (
    -- Holes without the dropped ranges.
    select
        instrument_name,
        currency,
        kind,
        is_open,
        seq as first_seq,
        leadInFrame(seq) over (
            partition by instrument_name order by seq rows between current row and 1 following
        ) - 1 as last_seq,
        multiIf(first_seq > last_loaded, 3, first_seq = 1, 1, 2) as place
    from hole_changes
),

creation_times as (
    select instrument_name, min(creation_timestamp) as created_at
    from <instruments>
    group by instrument_name
),

drops as (
    select instrument_name, min(first_seq) as first_dropped
    from <dropped_trades>
    where <in_scope>
    group by instrument_name
),

placed as (
    -- The first and the last trade of each instrument in each span, of those within an hour after it, which are loaded before
    -- that time counts as covered, and of those whose time is odd, because a run loads no other time.
    select
        trades.instrument_name as instrument_name,
        any(trades.currency) as currency,
        any(trades.kind) as kind,
        covered.covered_from as covered_from,
        multiIf(
            covered.kind = '', 'odd',
            trades.timestamp <= covered.covered_to, 'covered',
            trades.timestamp <= covered.covered_to + toIntervalHour(1), 'newest',
            'odd'
        ) as place,
        min(trades.trade_seq) as first_traded,
        max(trades.trade_seq) as last_traded
    from <trades> as trades
    asof left join covered
        on trades.currency = covered.currency and trades.kind = covered.kind
        and trades.timestamp >= covered.covered_from
    where trades.trade_seq <= {max_seq:Int64}
    group by instrument_name, covered_from, place
),

ordered as (
    select
        *,
        min(if(place = 'odd', {max_seq:Int64} + 1, first_traded)) over own as first_sound,
        max(if(place = 'odd', -1, last_traded)) over own as last_sound,
        min(first_traded) over own as first_loaded,
        max(last_traded) over own as last_loaded
    from placed
    window own as (partition by instrument_name)
),

spans_of_instruments as (
    -- No trade beyond them shows what is missing beside odd ones at either end, which count as trades of the nearest span.
    select
        instrument_name,
        covered_from,
        if(first_traded = first_sound, first_loaded, first_traded) as first_traded,
        if(last_traded = last_sound, last_loaded, last_traded) as last_traded
    from ordered
    where place = 'covered'
    union all
    select
        odd.instrument_name as instrument_name,
        min(covered.covered_from) as covered_from,
        any(odd.first_loaded) as first_traded,
        any(odd.last_loaded) as last_traded
    from ordered as odd
    inner join covered on odd.currency = covered.currency and odd.kind = covered.kind
    where odd.last_sound = -1
    group by instrument_name
),

covered_seqs as (
    -- Numbers between which all are in covered time, whatever the times of the trades between them. From 0 where the span
    -- includes the instrument's first trade. An odd time can put a span of numbers within another: the longest counts.
    select
        traded.instrument_name as instrument_name,
        if(
            (drops.instrument_name = '' or traded.first_traded <= drops.first_dropped)
            and (
                toUnixTimestamp64Milli(traded.covered_from) <= {epoch_ms:Int64}
                or ifNull(traded.covered_from <= creation_times.created_at, 0)
            ),
            0, traded.first_traded
        ) as after_seq,
        max(traded.last_traded) over (
            partition by instrument_name order by after_seq range between unbounded preceding and current row
        ) as before_seq
    from spans_of_instruments as traded
    left join creation_times on traded.instrument_name = creation_times.instrument_name
    left join drops on traded.instrument_name = drops.instrument_name
),

missing as (
    -- A hole outside of covered time, or before the start of the loaded or retained time, is not a gap.
    select
        open_holes.instrument_name as instrument_name,
        open_holes.currency as currency,
        open_holes.kind as kind,
        open_holes.first_seq as first_seq,
        open_holes.last_seq as last_seq,
        open_holes.place as place
    from open_holes
    asof left join covered_seqs
        on open_holes.instrument_name = covered_seqs.instrument_name
        and open_holes.first_seq > covered_seqs.after_seq
    where open_holes.is_open and (open_holes.place = 3 or open_holes.last_seq < covered_seqs.before_seq)
),

ranges as (
    -- Facts: (place, is absent, absence is provisional, is due to be requested again, is rejected).
    select instrument_name, currency, kind, first_seq, last_seq, (place, 0, 0, 0, 0) as facts
    from missing
    union all
    select instrument_name, currency, kind, first_seq, last_seq, (0, 1, is_provisional, is_due, 0) as facts
    from (<absent_ranges>)
    union all
    select instrument_name, currency, kind, trade_seq, trade_seq, (0, 0, 0, 0, 1) as facts
    from rejected
),

boundaries as (
    -- Start (+1) and end (-1) of each range: their running sums are the state at each seq.
    select * except (boundary), boundary.1 as seq, boundary.2 as sign
    from ranges
    array join [(first_seq, 1), (least(last_seq, {max_seq:Int64}) + 1, -1)] as boundary
),

states as (
    select
        instrument_name,
        any(currency) as currency,
        any(kind) as kind,
        seq,
        sum(sum(sign * facts.1)) over by_seq as place,
        place > 0 and sum(sum(sign * facts.2)) over by_seq > 0 as is_absent,
        place > 0 and sum(sum(sign * facts.3)) over by_seq > 0 as is_provisional,
        place > 0 and sum(sum(sign * facts.4)) over by_seq > 0 as is_due,
        place > 0 and sum(sum(sign * facts.5)) over by_seq > 0 as is_rejected
    from boundaries
    group by instrument_name, seq
    window by_seq as (partition by instrument_name order by seq)
),

state_changes as (
    select
        *,
        (place, is_absent, is_provisional, is_due, is_rejected) as state,
        lagInFrame(state) over (
            partition by instrument_name order by seq rows between 1 preceding and current row
        ) as state_before
    from states
    qualify state != state_before
),

closed_ranges as (
    select
        *,
        leadInFrame(seq) over (
            partition by instrument_name order by seq rows between current row and 1 following
        ) - 1 as last_seq
    from state_changes
),

final as (
    select
        instrument_name,
        currency,
        kind,
        seq as first_missing_seq,
        last_seq as last_missing_seq,
        ['head', 'inner', 'tail'][place] as where_missing,
        is_absent as known_absent,
        is_provisional,
        is_due,
        is_rejected as rejected
    from closed_ranges
    where place > 0
    order by instrument_name, first_missing_seq
)

select * from final

-- name: instruments_without_tail
-- Instruments that expired in covered time, were created or traded in it, and whose last trade is to be requested, with the
-- greatest trade_seq that is loaded.
with

covered as (
    <covered_spans>
),

listed as (
    select instrument_name, currency, ifNull(kind, '') as kind, creation_timestamp, expiration_timestamp
    from <instruments>
    where expiration_timestamp is not null and <in_scope>
),

expired as (
    select
        instrument_name,
        any(currency) as currency,
        any(kind) as kind,
        assumeNotNull(max(expiration_timestamp)) as expired_at,
        min(creation_timestamp) as created_at
    from listed
    group by instrument_name
),

answers as (
    select
        instrument_name,
        last_seq,
        min(found_at) + interval 1 day as again_at,
        max(found_at) as last_at
    from <instrument_tails>
    group by instrument_name, last_seq
),

settled as (
    -- An answer counts once it was given twice, a day apart, and is requested again only when that day has passed.
    select instrument_name
    from answers
    group by instrument_name
    having
        argMax(last_at >= again_at, last_seq)
        or argMax(toUnixTimestamp64Milli(again_at), last_seq) > {now_ms:Int64}
),

last_loaded as (
    select instrument_name, max(timestamp) as last_at, max(trade_seq) as last_seq
    from <trades>
    where <in_scope> and trade_seq <= {max_seq:Int64}
    group by instrument_name
),

final as (
    select
        expired.instrument_name as instrument_name,
        expired.currency as currency,
        expired.kind as kind,
        last_loaded.last_seq as last_seq
    from expired
    asof inner join covered
        on expired.currency = covered.currency and expired.kind = covered.kind
        and expired.expired_at >= covered.covered_from
    left join last_loaded on expired.instrument_name = last_loaded.instrument_name
    where
        expired.expired_at <= covered.covered_to
        and (
            last_loaded.last_at >= covered.covered_from
            or ifNull(expired.created_at >= covered.covered_from, 0)
            or toUnixTimestamp64Milli(covered.covered_from) <= {epoch_ms:Int64}
        )
        and expired.instrument_name not in (select instrument_name from settled)
    order by instrument_name
)

select * from final

-- name: trade_counts
-- Distinct trades and instruments of each stream, and whether any seq below the last one of an instrument is missing.
with

instruments as (
    select
        instrument_name,
        any(currency) as currency,
        any(kind) as kind,
        groupBitmap(toUInt64(trade_seq)) as trades,
        max(trade_seq) as last_seq
    from <trades>
    group by instrument_name
),

final as (
    select
        currency,
        kind,
        sum(instruments.trades) as trades,
        count() as instruments,
        sum(instruments.last_seq) > sum(instruments.trades) as has_holes
    from instruments
    group by currency, kind
)

select * from final

-- name: last_loads
-- When the last complete load package of each stream was loaded.
with

final as (
    select coverage.currency as currency, coverage.kind as kind, max(loads.inserted_at) as last_load_at
    from <coverage> as coverage
    inner join <finished_loads> as loads on coverage._dlt_load_id = loads.load_id
    group by currency, kind
)

select * from final
