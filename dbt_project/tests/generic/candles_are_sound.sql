{#
  Candles are consistent, per instrument and month: one candle per bucket, at its start, with low ≤ open, close ≤ high, and
  buy and sell volume that add up; trades, volume, notional, high and low are equal to those of the level `finer`, or of trades.

  `dbt test` also computes each candle of a stored level again and compares all of its columns. `dbt build` has just done so
  (macros/mend.sql), and has replaced and logged the wrong ones. Both are done in portions of months before the test itself, which selects
  what they found, so that memory does not grow with the history.
#}
{% test candles_are_sound(model, level, finer=none) %}
-- depends_on: {{ ref('verified_months') }} {{ ref('retention_drops') }} {{ ref('consumed_loads') }} {{ ref('pending_loads') }}
-- depends_on: {{ ref('stg_deribit__trade_times') }} {{ ref('stg_deribit__loads') }} {{ ref('moved_trades') }}
-- depends_on: {{ ref(finer_table(level)) }} {{ ref(stored_table(level)) }} {{ ref('ohlcv_' ~ finer if finer else 'trades') }}
{%- set versions = ref(candle_table(level)) if var('candle_levels')[level].is_stored %}
{{ blocks_nothing() }}
with

failures as (
    select '' as instrument_name, toDateTime(0, 'UTC') as bucket_at, '' as wrong
    where false
    {%- for instrument_name, bucket_at, wrong in wrong_totals(model, level, finer) + wrong_candles(level, versions) %}
    union all
    select {{ sql_text(instrument_name) }}, toDateTime({{ bucket_at }}, 'UTC'), '{{ wrong }}'
    {%- endfor %}
)

select * from failures
{% endtest %}
