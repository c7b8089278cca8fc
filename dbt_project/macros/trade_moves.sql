{#
  Pre-hook of `trade_versions`: note every place in time of a trade that has more than one among the claimed rows and the
  rows that are there. The old place must be known before its row is replaced, for its candle has to lose the trade.
#}
{% macro note_trade_moves() %}
{%- if execute and not flags.EMPTY and is_incremental() -%}
insert into {{ ref('trade_moves').render() }} (load_id, instrument_name, timestamp)
with

claimed as (
    select load_id, instrument_name, trade_seq, timestamp
    from {{ ref('stg_deribit__trades').render() }}
    where {{ is_claimed('load_id', 'trade_versions') }}
),

places as (
    select instrument_name, trade_seq, timestamp from claimed
    union all
    select instrument_name, trade_seq, timestamp from {{ this }}
    where (instrument_name, trade_seq) in (select instrument_name, trade_seq from claimed)
),

moved as (
    select instrument_name, trade_seq, groupUniqArray(timestamp) as timestamps
    from places
    group by instrument_name, trade_seq
    having min(timestamp) != max(timestamp)
)

select distinct claimed.load_id, claimed.instrument_name, arrayJoin(moved.timestamps) as timestamp
from claimed
inner join moved on claimed.instrument_name = moved.instrument_name and claimed.trade_seq = moved.trade_seq
{%- endif -%}
{% endmacro %}
