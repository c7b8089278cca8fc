{#
  Black-76 with a rate of 0, in the conventions of Deribit: delta without a premium adjustment; vega per percent point of volatility,
  theta per day and rho per percent point of the rate, in the quote currency; a year has 365 days. They are the same for inverse and linear
  options: an inverse option is worth `black76_value` / forward in coin.

  Sources: F. Black, The pricing of commodity contracts (1976); Deribit's knowledge base on option pricing for the limit of theta.

    with
    volatilities as (select *, {{ black76_volatility('forward', 'strike', 'iv', 'years') }} from options),
    terms as (select *, {{ black76_terms('forward', 'strike') }} from volatilities),
    greeks as (select *, {{ black76_greeks('forward', 'strike', 'iv', 'years', 'is_call') }} from terms)

  ClickHouse analyses an expression again wherever its alias is named, so each macro reads what the one before it has computed as columns.
  `iv` is in percent. All are null where the forward, strike, iv or time is null, or no price or volatility, and finite otherwise. Without time
  or volatility left, an option has the delta of its payoff, and no other Greek.
#}

{# Column `total_volatility`: of the whole time. #}
{% macro black76_volatility(forward, strike, iv, years) -%}
    if(
        {{ forward }} > 0 and isFinite({{ forward }}) and {{ strike }} > 0 and isFinite({{ strike }}) and {{ iv }} >= 0
        and isFinite({{ iv }}) and isFinite({{ years }}),
        toNullable({{ iv }} / 100 * sqrt(max2({{ years }}, 0))),
        null
    ) as total_volatility
{%- endmacro %}

{# Columns `d1` and `d2`. Beyond 40 standard deviations nothing changes any more. #}
{% macro black76_terms(forward, strike) -%}
    if(
        total_volatility >= {{ least_total_volatility() }},
        max2(min2(log({{ forward }} / {{ strike }}) / total_volatility + total_volatility / 2, 40), -40),
        if(isNull(total_volatility), null, if({{ forward }} > {{ strike }}, 40, -40))
    ) as d1,
    if(
        total_volatility >= {{ least_total_volatility() }},
        max2(min2(log({{ forward }} / {{ strike }}) / total_volatility - total_volatility / 2, 40), -40),
        if(isNull(total_volatility), null, if({{ forward }} > {{ strike }}, 40, -40))
    ) as d2
{%- endmacro %}

{# A smaller volatility of the whole time counts as none: one percent over a hundredth of a second. #}
{% macro least_total_volatility() -%}
    1e-7
{%- endmacro %}

{# Columns `option_value` (in the quote currency), `delta`, `gamma`, `vega`, `theta` and `rho`. #}
{% macro black76_greeks(forward, strike, iv, years, is_call) -%}
    if({{ is_call }}, 1, -1) as payoff_sign,
    {{ black76_value(forward, strike, 'payoff_sign') }} as option_value,
    payoff_sign * {{ normal_cdf('payoff_sign * d1') }} as delta,
    if(
        total_volatility >= {{ least_total_volatility() }},
        {{ normal_density('d1') }} / {{ forward }} / total_volatility,
        total_volatility * 0
    ) as gamma,
    {{ forward }} * {{ normal_density('d1') }} * sqrt(max2({{ years }}, 0)) / 100 as vega,
    -- An option cannot lose more in a day than it is worth.
    -min2(
        if(
            total_volatility >= {{ least_total_volatility() }},
            {{ forward }} * {{ normal_density('d1') }} * total_volatility / max2({{ years }}, 1e-12) / 2 / 365,
            total_volatility * 0
        ),
        option_value
    ) as theta,
    {{ strike }} * max2({{ years }}, 0) / 100 * payoff_sign * {{ normal_cdf('payoff_sign * d2') }} as rho
{%- endmacro %}

{#
  Value of an option in the quote currency at its forward, from `d1` and `d2`; `payoff_sign` is 1 for a call and -1 for a put.
#}
{% macro black76_value(forward, strike, payoff_sign) -%}
    max2(
        {{ payoff_sign }} * (
            {{ forward }} * {{ normal_cdf(payoff_sign ~ ' * d1') }} - {{ strike }} * {{ normal_cdf(payoff_sign ~ ' * d2') }}
        ),
        0
    )
{%- endmacro %}

{# Distribution and density of the standard normal. #}
{% macro normal_cdf(x) -%}
    (erfc(-({{ x }}) / sqrt(2)) / 2)
{%- endmacro %}

{% macro normal_density(x) -%}
    (exp(-({{ x }}) * ({{ x }}) / 2) / sqrt(2 * pi()))
{%- endmacro %}

{# Years of 365 days from one time in ms to another. #}
{% macro years_between(from_time, to_time) -%}
    ((toUnixTimestamp64Milli({{ to_time }}) - toUnixTimestamp64Milli({{ from_time }})) / 31536000000)
{%- endmacro %}
