{#
  CTE `newest`: rows of a staging model of a series in finished load packages. Of several rows with the same `key`, the one of the
  newest load package counts, because the exchange restates values. A filter on the key reaches the raw table.
#}
{% macro newest_rows(rows, key, columns) %}
finished as (
    select * from {{ rows }}
    where load_id in (select loads.load_id from {{ ref('stg_deribit__loads') }} as loads)
),

-- A tuple preserves nulls, which argMax itself would skip.
grouped as (
    select
        {{ key | join(', ') }},
        argMax(tuple({{ columns | join(', ') }}), toDecimal128OrZero(load_id, 6)) as newest_values
    from finished
    group by {{ key | join(', ') }}
),

newest as (
    select
        {{ key | join(', ') }},
        {% for column in columns -%}
        newest_values.{{ loop.index }} as {{ column }}{{ "," if not loop.last }}
        {% endfor %}
    from grouped
)
{% endmacro %}

{# Sum of floats that does not depend on their order: through decimals of 18 places. Null where one of them is out of range. #}
{% macro exact_sum(number) -%}
    if(
        min({{ is_in_range(number) }}),
        toFloat64(sum(toDecimal128(toString(if({{ is_in_range(number) }}, {{ number }}, 0)), 18))),
        null
    )
{%- endmacro %}
