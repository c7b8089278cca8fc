-- One row per instrument with trades: its loaded trade_seq, first trade and last trade.
with

numbers as (
    select
        loaded.instrument_name as instrument_name,
        groupBitmapMergeState(loaded.seqs) as seqs,
        groupBitmapMergeState(loaded.followers) as followers
    from {{ ref('loaded_seqs') }} as loaded
    group by instrument_name
),

ends as (
    select * from {{ latest_versions(ref('instrument_ends')) }}
),

final as (
    select
        ends.instrument_name as instrument_name,
        ends.currency as currency,
        ends.kind as kind,
        ends.underlying as underlying,
        ends.expiry as expiry,
        numbers.seqs as seqs,
        numbers.followers as followers,
        ends.first_at as first_at,
        ends.last_at as last_at,
        ends.trade_seq as trade_seq,
        ends.price as price,
        ends.mark_price as mark_price,
        ends.index_price as index_price,
        ends.iv as iv
    from ends
    inner join numbers on ends.instrument_name = numbers.instrument_name
)

select * from final
