{#
  Forwards and smiles are consistent: per expiry and month they are computed from all trades that count, whose number is stored. `dbt test`
  also computes each hour again and compares all of its columns. `dbt build` has just done so (macros/expiry_hours.sql), and has
  replaced and logged the wrong ones.
#}
{% test expiry_hours_are_sound(model) %}
-- depends_on: {{ ref('verified_months') }} {{ ref('retention_drops') }} {{ ref('consumed_loads') }} {{ ref('pending_loads') }} {{ ref('trade_versions') }}
-- depends_on: {{ ref('stg_deribit__trade_times') }} {{ ref('stg_deribit__loads') }} {{ ref('moved_trades') }}
{%- set table = 'expiry_hours_versions' %}
{{ blocks_nothing() }}
with

{{ load_bounds() }},

unsettled_hours as (
    {{ unsettled_buckets('1h') }}
),

unsettled as (
    {{ expiry_hours_of('unsettled_hours') }}
),

counted as (
    select
        {{ expiry_key('trades') }},
        toStartOfMonth(trades.timestamp) as month,
        toInt64(count()) as trades
    from {{ ref('trades') }} as trades
    where
        {{ is_of_expiry('trades') }}
        and {{ is_retained(['trade_versions'], 'trades.timestamp') }} and {{ in_test_scope('trades.timestamp', table) }}
    group by {{ expiry_key() }}, month
),

stored as (
    select
        {{ expiry_key() }},
        toStartOfMonth(bucket_at) as month,
        -sum(toInt64(trade_count)) as trades
    from {{ model }} final
    where {{ is_retained(['trade_versions'], 'bucket_at') }} and {{ in_test_scope('bucket_at', table) }}
    group by {{ expiry_key() }}, month
),

failures as (
    select
        toString(underlying) as underlying,
        toString(settlement_currency) as settlement_currency,
        expiry,
        toDateTime(month, 'UTC') as bucket_at,
        'trades of the month' as wrong
    from (
        select * from counted
        union all
        select * from stored
    )
    where ({{ expiry_key() }}, month) not in (
        select {{ expiry_key('unsettled') }}, toStartOfMonth(unsettled.bucket_at) from unsettled
    )
    group by {{ expiry_key() }}, month
    having sum(trades) != 0
    {%- for underlying, settlement_currency, expiry, bucket_at in wrong_expiry_hours(model) %}
    union all
    select
        {{ sql_text(underlying) }}, {{ sql_text(settlement_currency) }}, toDateTime({{ expiry }}, 'UTC'),
        toDateTime({{ bucket_at }}, 'UTC'), 'hour'
    {%- endfor %}
)

select * from failures
{% endtest %}
