{#
  Trades are sorted by instrument and trade_seq, so they are read by ranges of numbers. A block is a range of consecutive numbers of
  one instrument, the unit in which a query names the ranges that it needs.
#}
{% macro seq_block(trade_seq) -%} intDiv({{ trade_seq }}, 1024) {%- endmacro %}

{# The blocks from `first_seq` to `last_seq`, one row each. #}
{% macro seq_blocks(first_seq, last_seq) -%}
    arrayJoin(range({{ seq_block(first_seq) }}, {{ seq_block(last_seq) }} + 1))
{%- endmacro %}

{# A chunk is the range of numbers of one row of `loaded_seqs`: one container of a bitmap. #}
{% macro seq_chunk(trade_seq) -%} intDiv({{ trade_seq }}, 65536) {%- endmacro %}

{# Columns of `loaded_seqs` after the instrument, of trades that are grouped by instrument and chunk. #}
{% macro seq_bitmaps(trade_seq='trade_seq', timestamp='timestamp') -%}
    {{ seq_chunk(trade_seq) }} as chunk,
    groupBitmapState(toUInt64({{ trade_seq }})) as seqs,
    groupBitmapState(toUInt64({{ trade_seq }} + 1)) as followers,
    groupUniqArrayState(toYYYYMM({{ timestamp }})) as months
{%- endmacro %}
