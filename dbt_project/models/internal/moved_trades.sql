-- One row per load package, restated trade in it, and time that the trade has had, where these are several times.
-- Written before the new version becomes visible: the candles of its old minutes are recomputed, and `trades` shows
-- only the newest version until the move is settled.
{{ config(materialized='refreshed_table', full_refresh=false) }}
{{ built_after('refresh_log') -}}
{#- If nothing is restated, ClickHouse evaluates this condition once, and not the CTE wherever it is named. -#}
{%- set any_restated = '(select count() from restated) > 0' -%}
with

portion as (
    select
        load_id,
        instrument_name,
        trade_seq,
        timestamp
    from {{ ref('stg_deribit__trade_times') }}
    where {{ is_refreshed() }}
),

chunks as (
    select
        instrument_name,
        {{ seq_chunk('trade_seq') }} as chunk,
        groupBitmapState(toUInt64(trade_seq)) as seqs,
        groupArray(trade_seq) as numbers,
        arraySort(numbers) as sorted,
        if(
            length(numbers) = bitmapCardinality(seqs), [],
            arrayFilter((seq, previous) -> seq = previous, arrayPopFront(sorted), arrayPopBack(sorted))
        ) as repeated
    from portion
    group by instrument_name, chunk
),

loaded_chunks as (
    select
        loaded.instrument_name as instrument_name,
        loaded.chunk as chunk,
        groupBitmapMergeState(loaded.seqs) as seqs,
        groupUniqArrayMerge(loaded.months) as months
    from {{ ref('loaded_seqs') }} as loaded
    where (loaded.instrument_name, loaded.chunk) in (
        select portion.instrument_name, {{ seq_chunk('portion.trade_seq') }} from portion
    )
    group by instrument_name, chunk
),

-- Trades that were loaded before, or that the portion has twice.
restated as (
    select
        chunks.instrument_name as instrument_name,
        arrayJoin(arrayConcat(
            chunks.repeated,
            cast(bitmapToArray(bitmapAnd(chunks.seqs, loaded_chunks.seqs)), 'Array(Int64)')
        )) as trade_seq,
        loaded_chunks.months as months
    from chunks
    left join loaded_chunks
        on chunks.instrument_name = loaded_chunks.instrument_name and chunks.chunk = loaded_chunks.chunk
),

times as (
    select
        instrument_name,
        trade_seq,
        timestamp
    from portion
    where {{ any_restated }} and (instrument_name, trade_seq) in (
        select
            restated.instrument_name,
            restated.trade_seq
        from restated
    )
    union all
    select
        instrument_name,
        trade_seq,
        timestamp
    from {{ ref('trade_versions').render() }}
    where
        {{ any_restated }}
        and toYYYYMM(timestamp) in (select arrayJoin(restated.months) from restated)
        and (instrument_name, trade_seq) in (
            select
                restated.instrument_name,
                restated.trade_seq
            from restated
        )
),

moved as (
    select
        instrument_name,
        trade_seq,
        groupUniqArray(timestamp) as timestamps,
        min(toYYYYMM(timestamp)) != max(toYYYYMM(timestamp)) as is_between_months
    from times
    group by instrument_name, trade_seq
    having min(timestamp) != max(timestamp)
),

final as (
    select distinct
        portion.load_id as load_id,
        portion.instrument_name as instrument_name,
        portion.trade_seq as trade_seq,
        arrayJoin(moved.timestamps) as timestamp,
        toUInt8(moved.is_between_months) as is_between_months,
        toUInt8(0) as is_settled,
        toDateTime(0, 'UTC') as settled_at,
        {{ move_version() }} as version
    from portion
    inner join moved on portion.instrument_name = moved.instrument_name and portion.trade_seq = moved.trade_seq
)

select * from final
