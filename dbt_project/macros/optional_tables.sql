{#
  Raw tables that are created with their first row; until then, and in unit tests, an empty subquery replaces them.
#}
{% macro optional_table(name, empty) -%}
    {%- set table = adapter.get_relation(none, source('deribit_raw', 'trades').schema, name) if execute -%}
    {%- if table and model.resource_type != 'unit_test' -%}
    {{ table }}
    {%- else -%}
    (select {{ empty }} where false)
    {%- endif -%}
{%- endmacro %}

{# The last trade_seq of expired instruments. #}
{% macro instrument_tails() -%}
    {{ optional_table('instrument_tails', "'' as instrument_name, '' as currency, '' as kind, toInt64(0) as last_seq") }}
{%- endmacro %}

{# When `tape push` proved each month to be equal in another database; exists in the source database only. #}
{% macro pushes() -%}
    {{ optional_table('pushes', "toDateTime64(0, 3, 'UTC') as proven_at") }}
{%- endmacro %}
