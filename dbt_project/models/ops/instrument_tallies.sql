-- One row per instrument and computation of it: its loaded trade_seq, first trade and last trade.
-- Used by `current_prices` and `backfill_progress`, which therefore need not read all trades.
{{
    config(
        materialized='incremental',
        incremental_strategy='append',
        pre_hook="{{ claim_loads('ohlcv_1mo_versions') }}",
        post_hook="{{ record_loads() }}"
    )
}}
{{ require_complete_raw_history() -}}
-- depends_on: {{ ref('load_ledger') }} {{ ref('ohlcv_1mo_versions') }}
with

claimed as (
    select
        raw_rows.instrument_name as instrument_name,
        any(raw_rows.currency) as currency,
        groupBitmapState(toUInt64(raw_rows.trade_seq)) as seqs,
        groupBitmapState(toUInt64(raw_rows.trade_seq + 1)) as followers
    from {{ ref('stg_deribit__trades') }} as raw_rows
    where {{ is_claimed('raw_rows.load_id', 'instrument_tallies') }}
    group by instrument_name
),

touched as (
    select distinct raw_names.instrument_name as instrument_name
    from {{ ref('stg_deribit__trades') }} as raw_names
    where {{ is_claimed('raw_names.load_id', 'instrument_tallies') }}
),

-- Read only the first and the last month of each instrument, and in them the first and the last day.
end_months as (
    select
        months.instrument_name as instrument_name,
        arrayJoin([min(months.bucket_at), max(months.bucket_at)]) as month
    from {{ ref('ohlcv_1mo') }} as months
    where months.instrument_name in (select touched.instrument_name from touched)
    group by instrument_name
),

end_days as (
    select
        days.instrument_name as instrument_name,
        arrayJoin([min(days.bucket_at), max(days.bucket_at)]) as day
    from {{ ref('ohlcv_1d') }} as days
    where
        days.instrument_name in (select touched.instrument_name from touched)
        and toStartOfMonth(days.bucket_at) in (select toDate(end_months.month) from end_months)
        and (days.instrument_name, toStartOfMonth(days.bucket_at)) in (
            select
                end_months.instrument_name,
                toDate(end_months.month) as month_date
            from end_months
        )
    group by instrument_name
),

ends as (
    select
        trades.instrument_name as instrument_name,
        any(trades.kind) as kind,
        any(trades.underlying) as underlying,
        any(trades.expiry) as expiry,
        min(trades.timestamp) as first_at,
        max(trades.timestamp) as last_at,
        -- A tuple preserves nulls, which argMax itself would skip.
        argMax(
            tuple(trades.trade_seq, trades.price, trades.mark_price, trades.index_price, trades.iv),
            (trades.timestamp, trades.trade_seq)
        ) as last_trade
    from {{ ref('trades') }} as trades
    where
        trades.instrument_name in (select touched.instrument_name from touched)
        and toStartOfDay(trades.timestamp) in (select end_days.day from end_days)
        and (trades.instrument_name, toStartOfDay(trades.timestamp)) in (
            select
                end_days.instrument_name,
                end_days.day
            from end_days
        )
    group by instrument_name
),

previous as (
    select
        instrument_name,
        seqs,
        followers
    from {{ this ~ ' final' if is_incremental() else 'claimed' }}
),

final as (
    select
        claimed.instrument_name as instrument_name,
        toLowCardinality(claimed.currency) as currency,
        toLowCardinality(ends.kind) as kind,
        toLowCardinality(ends.underlying) as underlying,
        ends.expiry as expiry,
        bitmapOr(claimed.seqs, previous.seqs) as seqs,
        bitmapOr(claimed.followers, previous.followers) as followers,
        ends.first_at as first_at,
        ends.last_at as last_at,
        ends.last_trade.1 as trade_seq,
        ends.last_trade.2 as price,
        ends.last_trade.3 as mark_price,
        ends.last_trade.4 as index_price,
        ends.last_trade.5 as iv,
        {{ claimed_at('instrument_tallies') }} as built_at
    from claimed
    inner join ends on claimed.instrument_name = ends.instrument_name
    left join previous on claimed.instrument_name = previous.instrument_name
)

select * from final
