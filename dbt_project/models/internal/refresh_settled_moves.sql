-- Moves whose old rows were marked by an earlier refresh, and whose rows of a month are in one part: `trades` no longer
-- has to look at them.
{{ config(materialized='parameterized_view', contract={'enforced': false}) }}
with

unsettled as (
    select * from {{ latest_versions(ref('moved_trades')) }}
    where not is_settled
),

-- A query by time reads a part or leaves it out as a whole, so that only rows of several parts can be read apart.
unmerged as (
    select
        instrument_name,
        trade_seq
    from {{ ref('trade_versions').render() }}
    where
        (instrument_name, trade_seq) in (
            select
                unsettled.instrument_name,
                unsettled.trade_seq
            from unsettled
        )
    group by instrument_name, trade_seq, toYYYYMM(timestamp)
    having uniqExact(_part) > 1
),

final as (
    select
        unsettled.* except (is_settled, settled_at, version),
        toUInt8(1) as is_settled,
        now('UTC') as settled_at,
        {{ move_version(is_settled=true) }} as version
    from unsettled
    where
        unsettled.load_id in (
            select consumed.load_id from {{ ref('consumed_loads') }} as consumed
            where consumed.load_id in (select unsettled.load_id from unsettled)
        )
        and (unsettled.instrument_name, unsettled.trade_seq) not in (
            select
                unmerged.instrument_name,
                unmerged.trade_seq
            from unmerged
        )
)

select * from final
