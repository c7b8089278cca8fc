{#
  Exact decimals from floats, through their shortest text, which is what the exchange sent, rounded (not truncated) to 12 places.
  Their sums do not depend on the order. Intermediate results have 256 bits, so that no product overflows.
#}
{% macro to_exact_decimal(number) -%}
    toDecimal256(round(toDecimal256(toString({{ number }}), 18), 12), 12)
{%- endmacro %}

{% macro round_amount(number) -%}
    toDecimal128(round({{ number }}, 12), 12)
{%- endmacro %}

{# Predicate: an inverse future or perpetual, whose `amount` is in USD. All others are in the base coin. #}
{% macro is_inverse_future() -%}
    kind = 'future' and quote_currency = 'USD'
{%- endmacro %}

{# Predicate: `to_exact_decimal` may round the price to 0, so it cannot be a divisor. #}
{% macro is_zero_price() -%}
    abs(price) < 1e-12
{%- endmacro %}

{# Volume in the base coin: the amount, or amount / price for inverse futures. #}
{% macro trade_volume() -%}
    if(
        {{ is_inverse_future() }},
        if(
            {{ is_zero_price() }},
            toDecimal128(0, 12),
            {{ round_amount('toDecimal256(' ~ to_exact_decimal('amount') ~ ', 24) / ' ~ to_exact_decimal('if(' ~ is_zero_price() ~ ', 1, price)')) }}
        ),
        toDecimal128({{ to_exact_decimal('amount') }}, 12)
    )
{%- endmacro %}

{# Notional in the quote currency: price × amount, or the amount for inverse futures. #}
{% macro trade_notional() -%}
    if(
        {{ is_inverse_future() }},
        toDecimal128({{ to_exact_decimal('amount') }}, 12),
        {{ round_amount(to_exact_decimal('price') ~ ' * ' ~ to_exact_decimal('amount')) }}
    )
{%- endmacro %}
