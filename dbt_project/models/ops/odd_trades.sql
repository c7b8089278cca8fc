-- One row per trade with a value that the exchange should not send, until it is restated or accepted.
-- No model reads it, so its failed test stops nothing.
with

odd as (
    select * from {{ latest_versions(ref('odd_trade_keys')) }}
),

accepted as (
    select arrayJoin({{ var('accepted_odd_trades') }}::Array(String)) as trade
),

final as (
    select
        trades.instrument_name as instrument_name,
        trades.trade_seq as trade_seq,
        toLowCardinality(assumeNotNull({{ oddity_of_trade() }})) as reason,
        trades.timestamp as timestamp,
        trades.expiry as expiry,
        trades.kind as kind,
        trades.direction as direction,
        trades.loaded_at as loaded_at
    from {{ ref('trades') }} as trades
    where
        (trades.instrument_name, trades.trade_seq) in (
            select
                odd.instrument_name,
                odd.trade_seq
            from odd
        )
        and {{ oddity_of_trade() }} is not null
        and concat(trades.instrument_name, '/', toString(trades.trade_seq)) not in (select accepted.trade from accepted)
)

select * from final
