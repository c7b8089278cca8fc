{#
  A raw table that is created with its first row. While it does not exist, an empty subquery with `columns` (name: type) replaces it.
#}
{% macro optional_source(name, columns) -%}
    {%- set table = source('deribit_raw', name) -%}
    {%- if not execute or model.resource_type == 'unit_test' or adapter.get_relation(none, table.schema, table.identifier) -%}
    {{ table }}
    {%- else -%}
    (
        select
            {% for column, type in columns.items() -%}
            defaultValueOfTypeName('{{ type | replace("'", "\\'") }}') as {{ column }}{{ "," if not loop.last }}
            {% endfor -%}
        where false
    )
    {%- endif -%}
{%- endmacro %}
