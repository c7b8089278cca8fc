-- One row per range of missing trade_seq: before an instrument's first loaded trade (head), or between two (inner).
-- The exchange numbers trades from 1 without gaps, so nothing else is missing up to the newest trade.
with

tallies as (
    select * from {{ ref('instrument_tallies') }}
),

-- Bitmaps of instruments without gaps are not expanded. Number 0 counts as present.
instruments_with_gaps as (
    select
        tallies.instrument_name as instrument_name,
        tallies.currency as currency,
        tallies.kind as kind,
        bitmapOr(tallies.seqs, bitmapBuild([toUInt64(0)])) as present,
        bitmapOr(tallies.followers, bitmapBuild([toUInt64(1)])) as next_ones
    from tallies
    where
        bitmapMax(tallies.seqs) + bitmapContains(tallies.seqs, toUInt64(0)) > bitmapCardinality(tallies.seqs)
),

-- From the end of one run of consecutive numbers to the start of the next.
holes as (
    select
        instrument_name,
        currency,
        kind,
        arrayJoin(arrayZip(
            arrayPopBack(arraySort(bitmapToArray(bitmapAndnot(next_ones, present)))),
            arraySort(bitmapToArray(bitmapAndnot(bitmapAndnot(present, next_ones), bitmapBuild([toUInt64(0)]))))
        )) as hole,
        toInt64(hole.1) as first_seq,
        toInt64(hole.2) - 1 as last_seq
    from instruments_with_gaps
),

edges as (
    select
        holes.instrument_name as instrument_name,
        holes.currency as currency,
        holes.kind as kind,
        holes.first_seq as first_seq,
        holes.last_seq as last_seq,
        arrayJoin([holes.first_seq - 1, holes.last_seq + 1]) as trade_seq
    from holes
),

edge_times as (
    select
        trades.instrument_name as instrument_name,
        trades.trade_seq as trade_seq,
        trades.timestamp as traded_at,
        toUInt64(-1) as load_us
    from {{ ref('trades') }} as trades
    where
        (trades.instrument_name, trades.trade_seq) in (
            select
                edges.instrument_name,
                edges.trade_seq
            from edges
        )
    union all
    -- Of trades in months that `tape retention` dropped from `trades`. Where it dropped none, raw is not read.
    select
        raw_rows.instrument_name as instrument_name,
        raw_rows.trade_seq as trade_seq,
        raw_rows.timestamp as traded_at,
        raw_rows.load_us as load_us
    from {{ ref('stg_deribit__trades') }} as raw_rows
    where
        (select count() from {{ ref('retention_drops') }}) > 0
        and (raw_rows.instrument_name, raw_rows.trade_seq) in (
            select
                edges.instrument_name,
                edges.trade_seq
            from edges
        )
),

newest_times as (
    select
        edge_times.instrument_name as instrument_name,
        edge_times.trade_seq as trade_seq,
        argMax(edge_times.traded_at, edge_times.load_us) as traded_at
    from edge_times
    group by instrument_name, trade_seq
),

-- Times are null if there is no trade on that side, or it was dropped.
final as (
    select
        edges.instrument_name as instrument_name,
        edges.currency as currency,
        edges.kind as kind,
        toLowCardinality(if(edges.first_seq = 1, 'head', 'inner')) as place,
        edges.first_seq as first_missing_seq,
        edges.last_seq as last_missing_seq,
        edges.last_seq - edges.first_seq + 1 as missing,
        maxIf(
            toNullable(times.traded_at), times.instrument_name != '' and edges.trade_seq < edges.first_seq
        ) as after_at,
        maxIf(
            toNullable(times.traded_at), times.instrument_name != '' and edges.trade_seq > edges.last_seq
        ) as before_at
    from edges
    left join newest_times as times
        on edges.instrument_name = times.instrument_name and edges.trade_seq = times.trade_seq
    group by edges.instrument_name, edges.currency, edges.kind, edges.first_seq, edges.last_seq
)

select * from final
