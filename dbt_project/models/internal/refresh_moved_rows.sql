-- Marks for the rows that trades moved to another month left in `trade_versions`, which ClickHouse never merges with
-- the new row. FINAL omits a marked row.
{{ config(materialized='parameterized_view', contract={'enforced': false}) }}
with

moved as (
    select distinct
        instrument_name,
        trade_seq
    from {{ ref('moved_trades') }}
    where is_between_months and {{ is_refreshed() }}
),

months as (
    select distinct toYYYYMM(timestamp) as month from {{ ref('moved_trades') }}
    where is_between_months and {{ is_refreshed() }}
),

versions as (
    select * from {{ ref('trade_versions').render() }}
    where
        not is_moved
        and toYYYYMM(timestamp) in (select months.month from months)
        and (instrument_name, trade_seq) in (
            select
                moved.instrument_name,
                moved.trade_seq
            from moved
        )
),

newest as (
    select
        instrument_name,
        trade_seq,
        max((version, toYYYYMM(timestamp))) as newest
    from versions
    group by instrument_name, trade_seq
),

final as (
    select
        versions.* except (is_moved, version),
        toUInt8(1) as is_moved,
        newest.newest.1 as version
    from versions
    inner join newest on versions.instrument_name = newest.instrument_name and versions.trade_seq = newest.trade_seq
    where toYYYYMM(versions.timestamp) != newest.newest.2
)

select * from final
