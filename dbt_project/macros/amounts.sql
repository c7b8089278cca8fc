{#
  Exact decimals from the exchange's floats: by their shortest text, which is what the exchange sent, rounded (never cut) to
  12 places. Sums of them are the same in any order. 256 bits in between, so that no product overflows.
#}
{% macro exact(number) -%}
    toDecimal256(round(toDecimal256(toString({{ number }}), 18), 12), 12)
{%- endmacro %}

{% macro rounded_to_coin(number) -%}
    toDecimal128(round({{ number }}, 12), 12)
{%- endmacro %}

{# Inverse futures and perpetuals: `amount` counts USD. Everywhere else it counts the base coin. #}
{% macro is_inverse_future() -%}
    kind = 'future' and quote_currency = 'USD'
{%- endmacro %}

{# What `exact` may round to 0, which nothing can be divided by. #}
{% macro is_no_price() -%}
    abs(price) < 1e-12
{%- endmacro %}

{# Base coin: amount, or for inverse futures what that many USD buy at the price. #}
{% macro trade_volume() -%}
    if(
        {{ is_inverse_future() }},
        if(
            {{ is_no_price() }},
            toDecimal128(0, 12),
            {{ rounded_to_coin('toDecimal256(' ~ exact('amount') ~ ', 24) / ' ~ exact('if(' ~ is_no_price() ~ ', 1, price)')) }}
        ),
        toDecimal128({{ exact('amount') }}, 12)
    )
{%- endmacro %}

{# Quote currency: price times amount, or for inverse futures the amount itself. #}
{% macro trade_notional() -%}
    if(
        {{ is_inverse_future() }},
        toDecimal128({{ exact('amount') }}, 12),
        {{ rounded_to_coin(exact('price') ~ ' * ' ~ exact('amount')) }}
    )
{%- endmacro %}
