{#
  Trades are consistent, per instrument: exactly the trades of the raw rows, each once; valid directions and kinds; no trade
  after the expiry. Bitmaps of trade_seq count exactly and need little memory.
#}
{% test trades_are_sound(model) %}
{%- set tables = ['trade_versions', 'deribit_raw.trades'] -%}
-- depends_on: {{ ref('load_ledger') }} {{ ref('stg_deribit__trades') }} {{ ref('trade_moves') }}
with

raw_rows as (
    select instrument_name, trade_seq, timestamp from {{ ref('stg_deribit__trades') }}
    where {{ in_test_scope('load_id', 'trade_versions') }}
        and {{ is_retained(tables, 'timestamp') }}
),

days as (
    select toStartOfDay(timestamp) as day from raw_rows
    union distinct
    select toStartOfDay(timestamp) as day from {{ ref('trade_moves') }}
    where {{ in_test_scope('load_id', 'trade_versions') }}
),

raw as (
    select instrument_name, groupBitmap(toUInt64(trade_seq)) as raw_trades
    from raw_rows
    group by instrument_name
),

view_totals as (
    select
        instrument_name,
        count() as trades,
        groupBitmap(toUInt64(trade_seq)) as distinct_trades,
        countIf(direction not in ('buy', 'sell')) as unknown_directions,
        countIf(kind not in ('future', 'option', 'spot', 'future_combo', 'option_combo')) as unknown_kinds,
        countIf(timestamp > expiry) as trades_after_expiry,
        countIf(is_combo and is_combo_leg) as combos_that_are_legs
    from {{ model }}
    where
        {{ is_retained(tables, 'timestamp') }}
        {% if not is_full_test() %}
            and toStartOfDay(timestamp) in (select days.day from days)
            and instrument_name in (select raw_rows.instrument_name from raw_rows)
            and (instrument_name, trade_seq) in (select raw_rows.instrument_name, raw_rows.trade_seq from raw_rows)
        {% endif %}
    group by instrument_name
)

select *
from raw
full outer join view_totals on raw.instrument_name = view_totals.instrument_name
where raw_trades != trades
    or trades != distinct_trades
    or unknown_directions + unknown_kinds + trades_after_expiry + combos_that_are_legs > 0
{% endtest %}
