{#
  Trades are consistent, per instrument: exactly the trades of the raw rows, each once. Bitmaps of trade_seq count exactly and need
  little memory. What the exchange should not send is in `odd_trades`, whose test stops no other model.
#}
{% test trades_are_sound(model) %}
{%- set tables = ['trade_versions', 'deribit_raw.trades'] -%}
-- depends_on: {{ ref('verified_months') }} {{ ref('consumed_loads') }} {{ ref('stg_deribit__trades') }} {{ ref('trade_versions') }}
{{ blocks_nothing() }}
with

-- Trades that moved to another month are where their newest version is, so all months of an instrument are compared together.
instruments as (
    select distinct instrument_name from {{ ref('trade_versions') }}
    where {{ in_test_scope('timestamp', 'trade_versions') }}
),

raw as (
    select instrument_name, groupBitmap(toUInt64(trade_seq)) as raw_trades
    from {{ ref('stg_deribit__trades') }}
    where
        load_id in (select load_id from {{ ref('consumed_loads') }})
        and instrument_name in (select instruments.instrument_name from instruments)
        and {{ is_retained(tables, 'timestamp') }}
    group by instrument_name
),

view_totals as (
    select
        instrument_name,
        count() as trades,
        groupBitmap(toUInt64(trade_seq)) as distinct_trades
    from {{ model }}
    where
        instrument_name in (select instruments.instrument_name from instruments)
        and {{ is_retained(tables, 'timestamp') }}
    group by instrument_name
)

select *
from raw
full outer join view_totals on raw.instrument_name = view_totals.instrument_name
where raw_trades != trades
    or trades != distinct_trades
{% endtest %}
