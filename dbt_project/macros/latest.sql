{#
  The newest version of each row, whether ClickHouse has merged the older ones or not: a view of it is exact to any reader.
  In a unit test the table is a CTE, which has one version of each row and knows no FINAL.
#}
{% macro latest(versions) -%}
    {%- if versions is string or versions.is_cte -%} {{ versions }} {%- else -%} {{ versions.render() }} final {%- endif -%}
{%- endmacro %}
