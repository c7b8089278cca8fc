{#
  A restated trade may have another timestamp. The old timestamp must be recorded before the row is replaced, so that the old
  candle is recomputed. If it is in another month, ClickHouse never merges the two rows, so the old row must be marked.
#}

{# Pre-hook of `trade_versions`: record every timestamp of a trade that has several among claimed and existing rows. #}
{% macro record_restated_trades() %}
{%- if execute and not flags.EMPTY -%}
insert into {{ ref('trade_moves').render() }} (load_id, instrument_name, trade_seq, timestamp)
with

claimed as (
    select load_id, instrument_name, trade_seq, timestamp
    from {{ ref('stg_deribit__trades').render() }}
    where {{ is_claimed('load_id', 'trade_versions') }}
),

versions as (
    select instrument_name, trade_seq, timestamp from claimed
    {% if is_incremental() -%}
    union all
    select instrument_name, trade_seq, timestamp from {{ this }}
    -- The first two conditions use the skip indexes.
    where instrument_name in (select instrument_name from claimed)
        and trade_seq in (select trade_seq from claimed)
        and (instrument_name, trade_seq) in (select instrument_name, trade_seq from claimed)
    {%- endif %}
),

moved as (
    select instrument_name, trade_seq, groupUniqArray(timestamp) as timestamps
    from versions
    group by instrument_name, trade_seq
    having min(timestamp) != max(timestamp)
)

select distinct claimed.load_id, claimed.instrument_name, claimed.trade_seq, arrayJoin(moved.timestamps) as timestamp
from claimed
inner join moved on claimed.instrument_name = moved.instrument_name and claimed.trade_seq = moved.trade_seq
{%- endif -%}
{% endmacro %}

{# Post-hook of `trade_versions`: mark replaced rows in other months. FINAL omits marked rows. #}
{% macro mark_replaced_rows() %}
{%- if execute and not flags.EMPTY -%}
insert into {{ this }} (instrument_name, trade_seq, timestamp, is_moved, version)
with

moved as (
    select distinct instrument_name, trade_seq, timestamp
    from {{ ref('trade_moves').render() }}
    where {{ is_claimed('load_id', 'trade_versions') }}
),

newest as (
    select instrument_name, trade_seq, argMax(toYYYYMM(timestamp), version) as month, max(version) as newest_version
    from {{ this }}
    where is_moved = 0
        and instrument_name in (select instrument_name from moved)
        and trade_seq in (select trade_seq from moved)
        and (instrument_name, trade_seq) in (select instrument_name, trade_seq from moved)
    group by instrument_name, trade_seq
)

select moved.instrument_name, moved.trade_seq, moved.timestamp, 1, newest.newest_version
from moved
inner join newest on moved.instrument_name = newest.instrument_name and moved.trade_seq = newest.trade_seq
where toYYYYMM(moved.timestamp) != newest.month
{%- endif -%}
{% endmacro %}
