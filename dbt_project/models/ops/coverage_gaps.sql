-- One row per range of trade_seq that is missing in covered time, as `tape gaps` lists them: missing trades before the
-- covered time, or in time that is not covered, are no gaps.
with

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
    where {{ is_finished('instruments.load_id', ref('stg_deribit__instruments')) }}
    group by instrument_name
),

tails as (
    select
        last_trades.instrument_name as instrument_name,
        any(toString(last_trades.currency)) as currency,
        any(toString(last_trades.kind)) as kind,
        max(last_trades.last_seq) as last_seq
    from {{ ref('stg_deribit__instrument_tails') }} as last_trades
    where {{ is_finished('last_trades.load_id', ref('stg_deribit__instrument_tails')) }}
    group by instrument_name
),

tallies as (
    select * from {{ ref('instrument_tallies') }}
),

-- Holes with the span that each neighbour is in or follows. A time is odd if it is neither covered nor of the hour
-- after a span, which is loaded before it counts as covered: a run loads no other time.
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
        after_span.covered_from as after_from,
        before_span.covered_from as before_from,
        after_span.kind != '' and missing.after_at <= after_span.covered_to as is_after_covered,
        before_span.kind != '' and missing.before_at <= before_span.covered_to as is_before_covered,
        after_span.kind = '' or missing.after_at > after_span.covered_to + toIntervalHour(1) as is_after_odd,
        before_span.kind = '' or missing.before_at > before_span.covered_to + toIntervalHour(1) as is_before_odd
    from {{ ref('trade_gaps') }} as missing
    asof left join covered as after_span
        on
            missing.currency = after_span.currency and missing.kind = after_span.kind
            and missing.after_at >= after_span.covered_from
    asof left join covered as before_span
        on
            missing.currency = before_span.currency and missing.kind = before_span.kind
            and missing.before_at >= before_span.covered_from
),

streams as (
    select
        covered.currency as currency,
        covered.kind as kind,
        min(covered.covered_from) as covered_from
    from covered
    group by currency, kind
),

-- A neighbour with an odd time hides nothing: it counts as one of the span that the other neighbour is in.
gaps as (
    select
        holes.instrument_name as instrument_name,
        holes.currency as currency,
        holes.kind as kind,
        holes.place as place,
        holes.first_seq as first_seq,
        holes.last_seq as last_seq,
        holes.after_at as after_at,
        holes.before_at as before_at,
        if(holes.is_before_odd, streams.covered_from, holes.before_from) as head_from
    from holes
    inner join streams on holes.currency = streams.currency and holes.kind = streams.kind
    left join listed on holes.instrument_name = listed.instrument_name
    where
        multiIf(
            holes.before_at is null or not (holes.is_before_covered or holes.is_before_odd), false,
            holes.place = 'head',
            head_from <= toDateTime64('2016-01-01', 3, 'UTC') or coalesce(head_from <= listed.created_at, false),
            holes.after_at is null or not (holes.is_after_covered or holes.is_after_odd), false,
            holes.is_after_odd or holes.is_before_odd or holes.after_from = holes.before_from
        )
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
    where {{ is_finished('load_id', ref('stg_deribit__absent_trades')) }}
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
