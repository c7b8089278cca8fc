-- One row per range of missing trade_seq: before an instrument's first loaded trade (head), or between two (inner).
-- The exchange numbers trades from 1 without gaps, so nothing else is missing up to the newest trade.
with

tallies as (
    select * from {{ latest_versions(ref('instrument_tallies')) }}
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
    where bitmapMax(tallies.seqs) > bitmapCardinality(tallies.seqs)
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
        arrayJoin([holes.first_seq - 1, holes.last_seq + 1]) as trade_seq
    from holes
),

edge_trades as (
    select
        trades.instrument_name as instrument_name,
        trades.trade_seq as trade_seq,
        trades.timestamp as traded_at
    from {{ ref('trades') }} as trades
    where
        trades.instrument_name in (select edges.instrument_name from edges)
        and trades.trade_seq in (select edges.trade_seq from edges)
        and (trades.instrument_name, trades.trade_seq) in (
            select
                edges.instrument_name,
                edges.trade_seq
            from edges
        )
),

-- Trades in months that `tape retention` dropped from `trades`; usually none, and then raw is not read.
dropped_edges as (
    select
        edges.instrument_name as instrument_name,
        edges.trade_seq as trade_seq
    from edges
    where
        edges.trade_seq > 0
        and (edges.instrument_name, edges.trade_seq) not in (
            select
                edge_trades.instrument_name,
                edge_trades.trade_seq
            from edge_trades
        )
),

edge_times as (
    select * from edge_trades
    union all
    select
        raw_rows.instrument_name as instrument_name,
        raw_rows.trade_seq as trade_seq,
        argMax(raw_rows.timestamp, raw_rows.load_us) as traded_at
    from {{ ref('stg_deribit__trades') }} as raw_rows
    where
        (raw_rows.instrument_name, raw_rows.trade_seq) in (
            select
                dropped_edges.instrument_name,
                dropped_edges.trade_seq
            from dropped_edges
        )
    group by instrument_name, trade_seq
),

final as (
    select
        holes.instrument_name as instrument_name,
        holes.currency as currency,
        holes.kind as kind,
        toLowCardinality(if(holes.first_seq = 1, 'head', 'inner')) as place,
        holes.first_seq as first_missing_seq,
        holes.last_seq as last_missing_seq,
        holes.last_seq - holes.first_seq + 1 as missing,
        -- null if there is no trade on that side, or it was dropped.
        if(earlier.instrument_name = '', null, earlier.traded_at) as after_at,
        if(later.instrument_name = '', null, later.traded_at) as before_at
    from holes
    left join edge_times as earlier
        on holes.instrument_name = earlier.instrument_name and holes.first_seq - 1 = earlier.trade_seq
    left join edge_times as later
        on holes.instrument_name = later.instrument_name and holes.last_seq + 1 = later.trade_seq
)

select * from final
