-- One row per range of trade_seq that is missing: before the first trade of an instrument that is there (head),
-- or between two (inner). Numbers run from 1 without holes, so nothing else is missing up to the newest trade.
with

numbered as (
    select
        versions.instrument_name as instrument_name,
        versions.currency as currency,
        versions.kind as kind,
        versions.trade_seq as trade_seq,
        versions.timestamp as timestamp,
        lagInFrame(versions.trade_seq, 1, 0) over by_seq as previous_seq,
        lagInFrame(versions.timestamp) over by_seq as previous_at
    -- Versions will do: they have the same numbers, and a number that comes twice makes no gap.
    from {{ ref('trade_versions') }} as versions
    window by_seq as (
        partition by versions.instrument_name order by versions.trade_seq
        rows between 1 preceding and current row
    )
),

final as (
    select
        instrument_name,
        currency,
        kind,
        toLowCardinality(if(previous_seq = 0, 'head', 'inner')) as place,
        previous_seq + 1 as first_missing_seq,
        trade_seq - 1 as last_missing_seq,
        trade_seq - previous_seq - 1 as missing,
        if(previous_seq = 0, null, previous_at) as after_at,
        timestamp as before_at
    from numbered
    where trade_seq > previous_seq + 1
)

select * from final
