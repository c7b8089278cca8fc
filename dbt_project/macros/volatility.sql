{#
  Column `name`: linear interpolation at `target` of points (x, y) that are sorted by x; null outside of them. The neighbours of the target
  are columns as well, because ClickHouse has no local variables.
#}
{% macro interpolated(name, points, target) -%}
    arrayLast(one -> one.1 <= {{ target }}, {{ points }}) as {{ name }}_below,
    arrayFirst(one -> one.1 >= {{ target }}, {{ points }}) as {{ name }}_above,
    multiIf(
        not arrayExists(one -> one.1 <= {{ target }}, {{ points }})
        or not arrayExists(one -> one.1 >= {{ target }}, {{ points }}), null,
        {{ name }}_above.1 > {{ name }}_below.1,
        {{ name }}_below.2
        + ({{ name }}_above.2 - {{ name }}_below.2) * ({{ target }} - {{ name }}_below.1)
        / ({{ name }}_above.1 - {{ name }}_below.1),
        {{ name }}_below.2
    ) as {{ name }}
{%- endmacro %}

{# Variance of the whole time from a volatility in percent a year, and the volatility from it. #}
{% macro total_variance(iv, days) -%}
    {{ iv }} * {{ iv }} / 10000 * {{ days }} / 365
{%- endmacro %}

{# Points (days to expiry, total variance) of the grouped expiries that have a volatility, sorted. #}
{% macro variance_points(iv, days) -%}
    arraySort(groupArrayIf(
        tuple({{ days }}, {{ total_variance('assumeNotNull(' ~ iv ~ ')', days) }}), {{ iv }} is not null
    ))
{%- endmacro %}

{% macro volatility_of(total_variance, days) -%}
    100 * sqrt({{ total_variance }} * 365 / {{ days }})
{%- endmacro %}

{# Volatility in percent a year from a sum of squared returns over a number of hours; null without any. #}
{% macro annualised(squares, hours) -%}
    100 * sqrt({{ squares }} * 24 * 365 / nullIf({{ hours }}, 0))
{%- endmacro %}
