{#
  Lossless compact storage of trade ids, which are a number within a currency, often with a prefix: 384519212, ETH-284830839.
  The two parts take 60 per cent of the bytes of the text. The number has no leading zeros and at most 18 digits, everything
  before it is the prefix, and an id without such a number is a prefix only.
#}
{% macro trade_id_digits(trade_id) -%}
    extract({{ trade_id }}, '((?:0|[1-9][0-9]{0,17})$)')
{%- endmacro %}

{% macro trade_id_prefix(trade_id) -%}
    toLowCardinality(substring({{ trade_id }}, 1, length({{ trade_id }}) - length({{ trade_id_digits(trade_id) }})))
{%- endmacro %}

{% macro trade_id_number(trade_id) -%}
    toUInt64OrNull({{ trade_id_digits(trade_id) }})
{%- endmacro %}

{% macro trade_id(prefix, number) -%}
    concat({{ prefix }}, ifNull(toString({{ number }}), ''))
{%- endmacro %}
