{#
  Linear interpolation, in two steps, because ClickHouse analyses an expression again wherever its alias is named. `neighbours` is an array of
  (point below, point above, target), for each of `points`, arrays of points (x, y) that are sorted by x, and the target beside it in `targets`.
  `interpolated` is the array of the values at the targets, null outside of the points. y is a volatility or variance, and never 0: a point with
  0 is none.
#}
{% macro neighbours(points, targets) -%}
    arrayMap(
        (one, x) -> (arrayLast(point -> point.1 <= x, one), arrayFirst(point -> point.1 >= x, one), x),
        [{{ points | join(', ') }}], [{{ targets | join(', ') }}]
    )
{%- endmacro %}

{% macro interpolated(neighbours) -%}
    arrayMap(
        one -> multiIf(
            one.1.2 = 0 or one.2.2 = 0, null,
            one.2.1 > one.1.1, one.1.2 + (one.2.2 - one.1.2) * (one.3 - one.1.1) / (one.2.1 - one.1.1),
            one.1.2
        ),
        {{ neighbours }}
    )
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
