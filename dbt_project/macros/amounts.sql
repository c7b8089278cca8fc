{# Predicate: a number that no market comes near is out of range; so is NaN. Decimals hold products of numbers that are not. #}
{% macro is_in_range(number) -%}
    abs({{ number }}) < 1e13
{%- endmacro %}

{# Predicate: a price that a market can have. Quotients and products of a few of them are finite. #}
{% macro is_possible_price(price) -%}
    {{ price }} between 1e-12 and 1e12
{%- endmacro %}

{# The price; null where no market can have it. #}
{% macro possible_price(price) -%}
    if({{ is_possible_price(price) }}, {{ price }}, null)
{%- endmacro %}

{#
  Exact decimals from floats, through their shortest text, which is what the exchange sent, rounded (not truncated) to 12 places.
  Their sums do not depend on the order. Intermediate results have 256 bits, so that no product overflows. A number out of range counts as 0;
  its trade is odd (macros/odd_trades.sql).
#}
{% macro to_exact_decimal(number) -%}
    toDecimal256(round(toDecimal256(toString(if(not {{ is_in_range(number) }}, 0, {{ number }})), 18), 12), 12)
{%- endmacro %}

{% macro round_amount(number) -%}
    toDecimal128(round({{ number }}, 12), 12)
{%- endmacro %}

{# The same; null where it has more digits than the decimal. #}
{% macro round_amount_or_null(number) -%}
    accurateCastOrNull(round({{ number }}, 12), 'Decimal(38, 12)')
{%- endmacro %}

{#
  Predicate: an inverse future or perpetual, whose `amount` is in USD: its name has no pair, also where nothing else of it can be parsed. All
  others are in the base coin.
#}
{% macro is_inverse_future() -%}
    kind = 'future' and position(instrument_name, '_') = 0
{%- endmacro %}

{# Predicate: `to_exact_decimal` may round the price to 0, or counts it as 0, so it cannot be a divisor. #}
{% macro is_zero_price() -%}
    not (abs(price) >= 1e-12 and {{ is_in_range('price') }})
{%- endmacro %}

{#
  Predicate: a combo of inverse futures (BTC-FS-27JUN25_PERP). Its amount is in USD and its price is the difference of two prices, so
  it has neither a volume in the base coin nor a notional. Its legs have both.
#}
{% macro is_inverse_combo() -%}
    kind = 'future_combo' and match(instrument_name, '^[A-Z0-9]+-')
{%- endmacro %}

{#
  Most numbers have at most 15 digits, 8 of them behind the point. For them the integer of hundred millionths is exact, and computing with
  integers gives the same amounts ten times as fast as computing with decimals of 256 bits.
#}
{% macro is_short(number) -%}
    abs({{ number }}) < 1e7 and round({{ number }} * 1e8) / 1e8 = {{ number }}
{%- endmacro %}

{% macro hundred_millionths(number) -%}
    toInt64(round({{ number }} * 1e8))
{%- endmacro %}

{# An amount from an integer (Int128) of units of 12 places. #}
{% macro amount_of(units) -%}
    reinterpret({{ units }}, 'Decimal(38, 12)')
{%- endmacro %}

{# Integer quotient, rounded half away from zero as `round` does with decimals. `divisor` is positive. #}
{% macro rounded_quotient(dividend, divisor) -%}
    intDiv(2 * ({{ dividend }}) + {{ divisor }} * sign({{ dividend }}), 2 * {{ divisor }})
{%- endmacro %}

{# The column `amount` with 12 places. #}
{% macro exact_amount() -%}
    if(
        {{ is_short('amount') }},
        {{ amount_of('toInt128(' ~ hundred_millionths('amount') ~ ') * 10000') }},
        toDecimal128({{ to_exact_decimal('amount') }}, 12)
    )
{%- endmacro %}

{# Volume in the base coin: the amount, or amount / price for inverse futures; null for combos of inverse futures. #}
{% macro trade_volume() -%}
    multiIf(
        {{ is_inverse_combo() }},
        null,
        {{ is_inverse_future() }} and {{ is_zero_price() }},
        toDecimal128(0, 12),
        {{ is_inverse_future() }} and price > 0 and {{ is_short('price') }} and {{ is_short('amount') }},
        {{ amount_of(rounded_quotient(
            'toInt128(' ~ hundred_millionths('amount') ~ ') * 1000000000000',
            'toInt128(' ~ hundred_millionths('if(price > 0, price, 1)') ~ ')'
        )) }},
        {{ is_inverse_future() }},
        {{ round_amount(
            'toDecimal256(' ~ to_exact_decimal('amount') ~ ', 24) / ' ~ to_exact_decimal('if(' ~ is_zero_price() ~ ', 1, price)')
        ) }},
        {{ exact_amount() }}
    )
{%- endmacro %}

{# Notional in the quote currency: price × amount, or the amount for inverse futures; null for combos of inverse futures. #}
{% macro trade_notional() -%}
    multiIf(
        {{ is_inverse_combo() }},
        null,
        {{ is_inverse_future() }},
        {{ exact_amount() }},
        {{ is_short('price') }} and {{ is_short('amount') }},
        {{ amount_of(rounded_quotient(
            'toInt128(' ~ hundred_millionths('price') ~ ') * toInt128(' ~ hundred_millionths('amount') ~ ')', 'toInt128(10000)'
        )) }},
        {{ round_amount(to_exact_decimal('price') ~ ' * ' ~ to_exact_decimal('amount')) }}
    )
{%- endmacro %}

{#
  US dollars per unit of the quote currency: 1 for the dollar and the stablecoins pegged to it, the index price at the trade for inverse
  options, which are quoted in the coin. Null where a trade has no such rate, or a value that no market has and no decimal holds.
#}
{% macro usd_rate() -%}
    multiIf(
        kind in ('future_combo', 'option_combo'), null,
        quote_currency in ('USD', 'USDC', 'USDT', 'USDE'), 1,
        kind = 'option' and quote_currency = underlying, if(abs(price * amount * index_price) < 1e25, index_price, null),
        null
    )
{%- endmacro %}

{# Why `usd_rate` is null; null where it is not. #}
{% macro usd_rate_missing() -%}
    multiIf(
        usd_rate is not null, null,
        kind in ('future_combo', 'option_combo'), 'a combo has no value of its own',
        quote_currency is null, 'the quote currency is unknown',
        kind = 'option' and quote_currency = underlying and index_price is null, 'the trade has no index price',
        kind = 'option' and quote_currency = underlying, 'the value is out of range',
        'the quote currency has no dollar rate'
    )
{%- endmacro %}

{# A value in the quote currency in US dollars. Below 10^10, twice the product with a short rate fits into 128 bits. #}
{% macro in_usd(notional, usd_rate) -%}
    {%- set rate = 'ifNull(' ~ usd_rate ~ ', 0)' -%}
    multiIf(
        {{ usd_rate }} = 1,
        {{ notional }},
        abs({{ notional }}) < 10000000000 and {{ is_short(rate) }},
        {{ amount_of(rounded_quotient(
            'reinterpret(assumeNotNull(' ~ notional ~ "), 'Int128') * toInt128(" ~ hundred_millionths(rate) ~ ')', 'toInt128(100000000)'
        )) }},
        {{ round_amount('toDecimal256(' ~ notional ~ ', 12) * ' ~ to_exact_decimal(rate)) }}
    )
{%- endmacro %}

{# A volume or notional to be stored and summed: 0 where it is null. Views of candles show null again, by `is_inverse_combo`. #}
{% macro or_zero(amount) -%}
    ifNull({{ amount }}, toDecimal128(0, 12))
{%- endmacro %}
