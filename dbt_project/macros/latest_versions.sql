{#
  A table with FINAL: the newest version of each row, whether or not ClickHouse has merged older ones.
  In a unit test the table is a CTE, which has one version of each row and does not support FINAL.
#}
{% macro latest_versions(versions) -%}
    {%- if versions is string or versions.is_cte -%} {{ versions }} {%- else -%} {{ versions.render() }} final {%- endif -%}
{%- endmacro %}
