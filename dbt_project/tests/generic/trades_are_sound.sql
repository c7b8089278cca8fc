{#
  Trades are consistent, per instrument: exactly the trades of the raw rows, each once. Bitmaps of trade_seq are exact and need little
  memory. What the exchange should not send is in `odd_trades`, whose test stops no other model.
#}
{% test trades_are_sound(model) %}
{%- set tables = ['trade_versions', 'deribit_raw.trades'] -%}
-- depends_on: {{ ref('verified_months') }} {{ ref('consumed_loads') }} {{ ref('stg_deribit__loads') }}
-- depends_on: {{ ref('stg_deribit__trades') }} {{ ref('trade_versions') }}
{{ blocks_nothing() }}
with

{{ load_bounds() }},

-- Trades that moved to another month are where their newest version is, so all months of an instrument are compared together.
instruments as (
    select distinct instrument_name from {{ ref('trade_versions') }}
    where {{ in_test_scope('timestamp', 'trade_versions') }}
),

raw as (
    select
        instrument_name,
        groupBitmapState(toUInt64(trade_seq)) as seqs,
        groupBitmapStateIf(toUInt64(trade_seq), load_id not in ({{ unsettled_loads() }})) as settled_seqs
    from {{ ref('stg_deribit__trades') }}
    where
        load_id in (select load_id from {{ ref('consumed_loads') }})
        and instrument_name in (select instruments.instrument_name from instruments)
        and {{ is_retained(tables, 'timestamp') }}
    group by instrument_name
),

view_seqs as (
    select
        instrument_name,
        count() as trades,
        groupBitmapState(toUInt64(trade_seq)) as seqs,
        groupBitmapStateIf(toUInt64(trade_seq), {{ is_settled('loaded_at') }}) as settled_seqs
    from {{ model }}
    where
        instrument_name in (select instruments.instrument_name from instruments)
        and {{ is_retained(tables, 'timestamp') }}
    group by instrument_name
)

select
    if(raw.instrument_name = '', view_seqs.instrument_name, raw.instrument_name) as instrument_name,
    bitmapAndnotCardinality(raw.settled_seqs, view_seqs.seqs) as lost,
    bitmapAndnotCardinality(view_seqs.settled_seqs, raw.seqs) as invented,
    trades - bitmapCardinality(view_seqs.seqs) as repeated
from raw
full outer join view_seqs on raw.instrument_name = view_seqs.instrument_name
where lost > 0 or invented > 0 or repeated > 0
{% endtest %}
