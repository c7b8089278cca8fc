-- One row per range of trade_seq that is missing in covered time, as `tape gaps` lists them: missing trades before the
-- covered time, or in time that is not covered, are no gaps.
with

loads as (
    select * from {{ ref('stg_deribit__loads') }}
),

covered as (
    select
        toString(spans.currency) as currency,
        toString(spans.kind) as kind,
        spans.covered_from as covered_from,
        spans.covered_to as covered_to
    from {{ ref('covered_spans') }} as spans
),

listed as (
    select
        instruments.instrument_name as instrument_name,
        min(instruments.created_at) as created_at
    from {{ ref('stg_deribit__instruments') }} as instruments
    where instruments.load_id in (select loads.load_id from loads)
    group by instrument_name
),

tails as (
    select
        last_trades.instrument_name as instrument_name,
        any(toString(last_trades.currency)) as currency,
        any(toString(last_trades.kind)) as kind,
        max(last_trades.last_seq) as last_seq
    from {{ ref('stg_deribit__instrument_tails') }} as last_trades
    where last_trades.load_id in (select loads.load_id from loads)
    group by instrument_name
),

tallies as (
    select * from {{ ref('instrument_tallies') }}
),

streams as (
    select
        currency,
        kind,
        min(covered_from) as covered_from,
        max(covered_to) as covered_to
    from covered
    group by currency, kind
),

drops as (
    select
        dropped.instrument_name as instrument_name,
        min(dropped.first_seq) as first_dropped
    from {{ ref('stg_deribit__dropped_trades') }} as dropped
    group by instrument_name
),

holes as (
    select
        missing.instrument_name as instrument_name,
        toString(missing.currency) as currency,
        toString(missing.kind) as kind,
        toString(missing.place) as place,
        missing.first_missing_seq as first_seq,
        missing.last_missing_seq as last_seq,
        missing.after_at as after_at,
        missing.before_at as before_at,
        arrayDistinct([
            (missing.first_missing_seq - 1, missing.after_at),
            (missing.last_missing_seq + 1, missing.before_at),
            (missing.first_loaded_seq, missing.first_loaded_at),
            (missing.last_loaded_seq, missing.last_loaded_at)
        ]) as trades
    from {{ ref('trade_gaps') }} as missing
),

-- Each hole with the trades beside it, and with the first and the last one of the instrument.
timed as (
    select
        instrument_name,
        currency,
        kind,
        place,
        first_seq,
        last_seq,
        after_at,
        before_at,
        trade.1 as trade_seq,
        trade.2 is not null as is_timed,
        coalesce(trade.2, toDateTime64(0, 3, 'UTC')) as traded_at
    from holes
    array join trades as trade
    where is_timed or trade_seq = last_seq + 1
),

-- The span of each trade, or the one before it.
placed as (
    select
        timed.currency as currency,
        timed.kind as kind,
        timed.* except (currency, kind),
        covered.covered_from as span_from,
        timed.is_timed and covered.kind != '' and timed.traded_at <= covered.covered_to as is_covered,
        streams.covered_from as stream_from,
        streams.covered_to as stream_to
    from timed
    asof left join covered
        on
            timed.currency = covered.currency and timed.kind = covered.kind
            and timed.traded_at >= covered.covered_from
    inner join streams on timed.currency = streams.currency and timed.kind = streams.kind
),

-- The first and the last of these trades in each span, and of those outside of covered time. A time is impossible
-- before there was an exchange, and long after the last span: only the newest minute is loaded before it is covered.
traded as (
    select
        instrument_name,
        any(currency) as currency,
        any(kind) as kind,
        any(stream_from) as stream_from,
        span_from,
        is_timed,
        is_covered,
        is_timed and not is_covered and (
            traded_at < toDateTime64('2016-01-01', 3, 'UTC') or traded_at > stream_to + toIntervalDay(1)
        ) as is_impossible,
        min(trade_seq) as first_traded,
        max(trade_seq) as last_traded,
        groupArrayIf(tuple(first_seq, last_seq, place, after_at, before_at), trade_seq = last_seq + 1) as holes
    from placed
    group by instrument_name, span_from, is_timed, is_covered, is_impossible
),

instruments as (
    select
        instrument_name,
        any(currency) as currency,
        any(kind) as kind,
        any(stream_from) as stream_from,
        minIf(span_from, is_covered) as first_from,
        maxIf(span_from, is_covered) as last_from,
        minIf(first_traded, is_covered) as first_covered,
        maxIf(last_traded, is_covered) as last_covered,
        minIf(first_traded, is_timed) as first_timed,
        maxIf(last_traded, is_timed) as last_timed,
        groupArrayIf(tuple(span_from, first_traded, last_traded), is_covered) as spans,
        groupArrayIf(
            tuple(span_from, first_traded, last_traded), is_timed and not is_covered and not is_impossible
        ) as uncovered,
        groupArrayArray(holes) as holes
    from traded
    group by instrument_name
),

-- Trades at either end whose time is impossible or contradicts their numbers count as covered, as in `tape gaps`.
spans_of_instruments as (
    select
        *,
        arrayExists(span -> span.1 < first_from and span.2 < first_covered, uncovered) as has_trade_before,
        arrayExists(span -> span.1 >= last_from and span.3 > last_covered, uncovered) as has_trade_after,
        if(empty(spans) and empty(uncovered), [(stream_from, first_timed, last_timed)], arrayMap(
            span -> (
                span.1,
                if(span.2 = first_covered and not has_trade_before, first_timed, span.2),
                if(span.3 = last_covered and not has_trade_after, last_timed, span.3)
            ),
            spans
        )) as counted
    from instruments
),

known as (
    select
        spans.instrument_name as instrument_name,
        spans.currency as currency,
        spans.kind as kind,
        spans.counted as counted,
        spans.holes as holes,
        coalesce(listed.created_at, toDateTime64(0, 3, 'UTC')) as created_at,
        if(drops.instrument_name = '', toInt64(9223372036854775807), drops.first_dropped) as first_dropped
    from spans_of_instruments as spans
    left join listed on spans.instrument_name = listed.instrument_name
    left join drops on spans.instrument_name = drops.instrument_name
),

-- Numbers between which all are in covered time; from 0 where the span includes the instrument's first trade.
covered_seqs as (
    select
        instrument_name,
        currency,
        kind,
        holes,
        arrayMap(
            span -> (
                if(
                    span.2 <= first_dropped and span.1 <= greatest(created_at, toDateTime64('2016-01-01', 3, 'UTC')),
                    toInt64(0), span.2
                ),
                span.3
            ),
            counted
        ) as ranges
    from known
),

gaps as (
    select
        instrument_name,
        currency,
        kind,
        hole.3 as place,
        hole.1 as first_seq,
        hole.2 as last_seq,
        hole.4 as after_at,
        hole.5 as before_at
    from covered_seqs
    array join holes as hole
    where arrayExists(range -> range.1 < hole.1 and range.2 > hole.2, ranges)
),

-- From the last loaded trade to the last one of the instrument.
missing_tails as (
    select
        tails.instrument_name as instrument_name,
        tails.currency as currency,
        tails.kind as kind,
        'tail' as place,
        toInt64(bitmapMax(tallies.seqs)) + 1 as first_seq,
        tails.last_seq as last_seq,
        if(tallies.instrument_name = '', null, tallies.last_at) as after_at,
        cast(null as Nullable(DateTime64(3, 'UTC'))) as before_at
    from tails
    left join tallies on tails.instrument_name = tallies.instrument_name
    where last_seq >= first_seq
),

-- A hole is (first number, place, times of its neighbours). Ranges that the exchange does not have are none, nor are
-- those that `tape retention` dropped from raw: models built before have their trades, a restored backup does not.
ranges as (
    select
        instrument_name,
        currency,
        kind,
        first_seq,
        last_seq,
        1 as requested,
        0 as absent,
        0 as dropped,
        tuple(first_seq, place, after_at, before_at) as hole
    from gaps
    union all
    select
        instrument_name,
        currency,
        kind,
        first_seq,
        last_seq,
        1 as requested,
        0 as absent,
        0 as dropped,
        tuple(first_seq, place, after_at, before_at) as hole
    from missing_tails
    union all
    select
        instrument_name,
        toString(currency) as currency,
        toString(kind) as kind,
        first_seq,
        last_seq,
        0 as requested,
        1 as absent,
        0 as dropped,
        tuple(
            toInt64(0), '', cast(null as Nullable(DateTime64(3, 'UTC'))), cast(null as Nullable(DateTime64(3, 'UTC')))
        ) as hole
    from {{ ref('stg_deribit__absent_trades') }}
    where load_id in (select loads.load_id from loads)
    union all
    select
        instrument_name,
        toString(currency) as currency,
        toString(kind) as kind,
        first_seq,
        last_seq,
        0 as requested,
        0 as absent,
        1 as dropped,
        tuple(
            toInt64(0), '', cast(null as Nullable(DateTime64(3, 'UTC'))), cast(null as Nullable(DateTime64(3, 'UTC')))
        ) as hole
    from {{ ref('stg_deribit__dropped_trades') }}
),

-- Starts (+) and ends (-) of ranges; running sums give the state from each number to the next, the maximum the hole.
range_edges as (
    select
        instrument_name,
        currency,
        kind,
        edge.1 as seq,
        sum(edge.2 * requested) as requested_step,
        sum(edge.2 * absent) as absent_step,
        sum(edge.2 * dropped) as dropped_step,
        maxIf(hole, edge.2 = 1) as hole
    from ranges
    array join [(first_seq, 1), (last_seq + 1, -1)] as edge
    group by instrument_name, currency, kind, seq
),

range_states as (
    select
        instrument_name,
        currency,
        kind,
        seq,
        sum(requested_step) over by_seq > 0 as is_requested,
        sum(absent_step) over by_seq > 0 as is_absent,
        sum(dropped_step) over by_seq > 0 as is_dropped,
        max(hole) over by_seq as hole,
        leadInFrame(seq, 1, seq) over (
            partition by instrument_name order by seq rows between current row and 1 following
        ) as next_seq
    from range_edges
    window by_seq as (partition by instrument_name order by seq)
),

final as (
    select
        instrument_name,
        toLowCardinality(currency) as currency,
        toLowCardinality(kind) as kind,
        toLowCardinality(hole.2) as place,
        seq as first_missing_seq,
        next_seq - 1 as last_missing_seq,
        next_seq - seq as missing,
        cast(is_absent as Bool) as is_absent,
        hole.3 as after_at,
        hole.4 as before_at
    from range_states
    where is_requested and not is_dropped and next_seq > seq
)

select * from final
