"""What is missing, as one statement over the raw tables; the only place that says what counts as a gap.

Parameters: `currencies` and `kinds` (Array(String), empty = all), `epoch_ms` (Int64). The names in braces are tables,
or an empty relation for one that does not exist yet.

The server holds two bitmaps of the seqs of each instrument (a bit for each trade of a busy one, two bytes of a quiet
one) and a row for each gap, the client a row for each gap.
"""

from __future__ import annotations

from collections.abc import Collection

from extract.clickhouse.settings import RAW_DATABASE
from extract.source.tables import COVERAGE, RAW_TABLES, TRADES

_ASKED = """(empty({currencies:Array(String)}) or currency in {currencies:Array(String)})
        and (empty({kinds:Array(String)}) or kind in {kinds:Array(String)})"""

COVERED = """
covered_rows as (
    -- A later row with the same beginning is the newer word; spans may overlap.
    select currency, kind, covered_from, max(covered_to) as covered_to
    from <coverage>
    where <asked>
    group by currency, kind, covered_from
),

covered_rows_apart as (
    select
        *,
        covered_from > toIntervalMillisecond(1) + max(covered_to) over (
            partition by currency, kind order by covered_from
            rows between unbounded preceding and 1 preceding
        ) as is_apart
    from covered_rows
),

covered_rows_numbered as (
    select *, sum(is_apart) over (partition by currency, kind order by covered_from) as span
    from covered_rows_apart
),

covered as (
    -- One row per span of time whose trades are all loaded, apart from each other.
    select currency, kind, min(covered_from) as covered_from, max(covered_to) as covered_to
    from covered_rows_numbered
    group by currency, kind, span
)"""

_GAPS = """
loaded as (
    -- The last seq of an expired instrument, where it was asked for, comes as a row without a trade.
    select instrument_name, currency, kind, trade_seq, toInt64(0) as known_last
    from <trades>
    where <asked>
    union all
    select instrument_name, currency, kind, toInt64(0) as trade_seq, last_seq as known_last
    from <instrument_tails>
    where <asked>
    union all
    -- What `tape retention` dropped was there once.
    select instrument_name, currency, kind, arrayJoin(range(first_seq, last_seq + 1)) as trade_seq, toInt64(0) as known_last
    from <dropped_trades>
    where <asked>
),

seen as (
    select
        instrument_name,
        any(currency) as currency,
        any(kind) as kind,
        max(trade_seq) as last_seen,
        max(known_last) as last_known,
        if(last_known > last_seen, [last_known + 1], []) as behind_tail,
        groupBitmapState(toUInt64(trade_seq)) as seqs,
        groupBitmapState(toUInt64(trade_seq + 1)) as followers
    from loaded
    group by instrument_name
),

bounded as (
    -- Seq 0 and the one behind the known end count as seen: what is missing then always lies between two.
    select
        instrument_name,
        currency,
        kind,
        last_seen,
        bitmapOr(seqs, bitmapBuild(arrayMap(seq -> toUInt64(seq), arrayPushBack(behind_tail, 0)))) as present,
        bitmapOr(followers, bitmapBuild(arrayMap(seq -> toUInt64(seq + 1), arrayPushBack(behind_tail, 0))))
            as followers
    from seen
),

holes as (
    -- One row per range that is missing: from the follower of one run of seqs to the next run's beginning.
    -- Bitmaps of up to 32 numbers come out in the order they went in.
    select
        instrument_name,
        currency,
        kind,
        arrayJoin(
            arrayZip(
                arrayPopBack(arraySort(bitmapToArray(bitmapAndnot(followers, present)))),
                arrayPopFront(arraySort(bitmapToArray(bitmapAndnot(present, followers))))
            )
        ) as hole,
        toInt64(hole.1) as first_seq,
        toInt64(hole.2) - 1 as last_seq,
        multiIf(first_seq > last_seen, 3, first_seq = 1, 1, 2) as place
    from bounded
),

edges as (
    select * except (hole), arrayJoin([first_seq - 1, last_seq + 1]) as trade_seq
    from holes
),

timed as (
    -- When the neighbours of each hole were traded; seq 0 and what is behind the known end have no time.
    select
        edges.instrument_name as instrument_name,
        edges.currency as currency,
        edges.kind as kind,
        edges.first_seq as first_seq,
        edges.last_seq as last_seq,
        edges.place as place,
        maxIf(trades.timestamp, edges.trade_seq < edges.first_seq) as before_at,
        maxIf(trades.timestamp, edges.trade_seq > edges.last_seq) as after_at
    from <trades> as trades
    right join edges
        on trades.instrument_name = edges.instrument_name and trades.trade_seq = edges.trade_seq
    group by all
),

listed as (
    select instrument_name, min(creation_timestamp) as created_at
    from <instruments>
    group by instrument_name
),

missing as (
    -- What lies before the time asked for or kept, or in time that is not covered, is no gap.
    select
        timed.instrument_name as instrument_name,
        timed.currency as currency,
        timed.kind as kind,
        timed.first_seq as first_seq,
        timed.last_seq as last_seq,
        timed.place as place
    from timed
    asof left join covered
        on timed.currency = covered.currency and timed.kind = covered.kind
        and timed.after_at >= covered.covered_from
    left join listed on timed.instrument_name = listed.instrument_name
    where
        multiIf(
            timed.place = 3, 1,
            timed.after_at = fromUnixTimestamp64Milli(0), 0,
            timed.after_at > covered.covered_to, 0,
            timed.place = 2, timed.before_at between covered.covered_from and covered.covered_to,
            toUnixTimestamp64Milli(covered.covered_from) <= {epoch_ms:Int64}
            or ifNull(covered.covered_from <= listed.created_at, 0)
        )
),

rejected as (
    select
        currency,
        kind,
        JSONExtractString(raw, 'instrument_name') as instrument_name,
        JSONExtractInt(raw, 'trade_seq') as trade_seq
    from <rejected_trades>
    where <asked>
),

ranges as (
    select instrument_name, currency, kind, first_seq, last_seq, place as missing, 0 as absent, 0 as rejected
    from missing
    union all
    select instrument_name, currency, kind, first_seq, last_seq, 0 as missing, 1 as absent, 0 as rejected
    from <absent_trades>
    where <asked>
    union all
    select instrument_name, currency, kind, trade_seq, trade_seq, 0 as missing, 0 as absent, 1 as rejected
    from rejected
),

marks as (
    -- Where a range begins (+) and ends (-): running sums then tell what holds at each seq.
    select * except (mark), mark.1 as seq, mark.2 as sign
    from ranges
    array join [(first_seq, 1), (last_seq + 1, -1)] as mark
),

levels as (
    select
        instrument_name,
        any(currency) as currency,
        any(kind) as kind,
        seq,
        sum(sum(sign * missing)) over by_seq as place,
        place > 0 and sum(sum(sign * absent)) over by_seq > 0 as is_absent,
        place > 0 and sum(sum(sign * rejected)) over by_seq > 0 as is_rejected
    from marks
    group by instrument_name, seq
    window by_seq as (partition by instrument_name order by seq)
),

changes as (
    select
        *,
        (place, is_absent, is_rejected) as state,
        lagInFrame(state) over (
            partition by instrument_name order by seq rows between 1 preceding and current row
        ) as state_before
    from levels
    qualify state != state_before
),

parts as (
    select
        *,
        leadInFrame(seq) over (
            partition by instrument_name order by seq rows between current row and 1 following
        ) - 1 as last_seq
    from changes
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
        is_rejected as rejected
    from parts
    where place > 0
    order by instrument_name, first_missing_seq
)

select * from final"""


def gaps_sql(tables: Collection[str]) -> str:
    """The statement for a raw database that has `tables`. One row per range, ordered, with whose it is and why."""
    return render(f"with {COVERED},\n{_GAPS}", tables)


def coverage_sql() -> str:
    """The spans of time that are covered, of the same parameters: currency, kind, covered_from, covered_to."""
    return render(f"with {COVERED}\n\nselect * from covered order by all", ())


def render(sql: str, tables: Collection[str]) -> str:
    """`sql` with `<asked>` and each `<table>` filled in."""
    for name, table in RAW_TABLES.items():
        exists = table in (TRADES, COVERAGE) or name in tables
        sql = sql.replace(f"<{name}>", f"{RAW_DATABASE}.{name}" if exists else table.empty_relation)
    return sql.replace("<asked>", _ASKED)
