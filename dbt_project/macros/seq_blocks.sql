{#
  Trades are sorted by instrument and trade_seq, so they are read by ranges of numbers. A block is a range of consecutive numbers of
  one instrument, the unit in which a query names the ranges that it needs.
#}
{% macro seq_block(trade_seq) -%} intDiv({{ trade_seq }}, 1024) {%- endmacro %}

{# The blocks from `first_seq` to `last_seq`, one row each; of a range of more than a thousand, as of an odd number, the block -1, of all numbers. #}
{% macro seq_blocks(first_seq, last_seq) -%}
    {%- set first, last = seq_block(first_seq), seq_block(last_seq) -%}
    arrayJoin(if({{ last }} - {{ first }} > 1000, [-1], range({{ first }}, least({{ last }}, {{ first }} + 1000) + 1)))
{%- endmacro %}

{# Predicate, which the sort key can use: a trade is in the CTE `blocks`. If that has months, `month` is the trade's. #}
{% macro is_in_blocks(month=none) -%}
    {%- set in_blocks -%}
        in (select blocks.instrument_name, blocks.block {{- ', blocks.month' if month }} from blocks)
    {%- endset -%}
    {%- set all_numbers = 'intDiv(intDiv(trade_seq, 4294967296), 4294967296) - 1' -%} {#- -1, as a function of the sort key -#}
    (
        (instrument_name, {{ seq_block('trade_seq') }} {{- ', ' ~ month if month }}) {{ in_blocks }}
        or (instrument_name, {{ all_numbers }} {{- ', ' ~ month if month }}) {{ in_blocks }}
    )
{%- endmacro %}

{# A chunk is the range of numbers of one row of `loaded_seqs`: one container of a bitmap. #}
{% macro seqs_per_chunk() -%} 65536 {%- endmacro %}

{% macro seq_chunk(trade_seq) -%} intDiv({{ trade_seq }}, {{ seqs_per_chunk() }}) {%- endmacro %}

{# Columns of `loaded_seqs` after the instrument, of trades that are grouped by instrument and chunk. #}
{% macro seq_bitmaps(trade_seq='trade_seq', timestamp='timestamp') -%}
    {{ seq_chunk(trade_seq) }} as chunk,
    groupBitmapState(toUInt64({{ trade_seq }})) as seqs,
    groupBitmapState(toUInt64({{ trade_seq }} + 1)) as followers,
    groupUniqArrayState(toYYYYMM({{ timestamp }})) as months
{%- endmacro %}
