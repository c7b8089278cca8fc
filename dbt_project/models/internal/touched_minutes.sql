-- One row per portion and minute that it changes: of a trade of the portion, or of one that the portion moves away.
{{ config(materialized='refreshed_table') }}
{{ built_after('refresh_log') -}}
with

places as (
    select
        instrument_name,
        trade_seq,
        timestamp
    from {{ ref('stg_deribit__trade_times') }}
    where {{ is_refreshed() }}
    union all
    select
        instrument_name,
        trade_seq,
        timestamp
    from {{ ref('moved_trades') }}
    where {{ is_refreshed() }}
),

minutes as (
    select
        instrument_name,
        {{ bucket_start('1m', 'timestamp') }} as bucket_at,
        min(trade_seq) as first_seq,
        max(trade_seq) as last_seq
    from places
    group by instrument_name, bucket_at
),

{{ parsed_names('places') }},

final as (
    select
        {{ refresh_version() }} as version,
        minutes.instrument_name as instrument_name,
        minutes.bucket_at as bucket_at,
        minutes.first_seq as first_seq,
        minutes.last_seq as last_seq,
        toLowCardinality(names.underlying) as underlying,
        toLowCardinality(names.settlement_currency) as settlement_currency,
        names.expiry as expiry,
        now('UTC') as touched_at
    from minutes
    inner join names on minutes.instrument_name = names.instrument_name
)

select * from final
