{#
  Raw tables that come into being with their first row, and what stands for them until then. In a unit test none is there.
#}
{% macro optional_table(name, empty) -%}
    {%- set table = adapter.get_relation(none, source('deribit_raw', 'trades').schema, name) if execute -%}
    {%- if table and model.resource_type != 'unit_test' -%}
    {{ table }}
    {%- else -%}
    (select {{ empty }} where false)
    {%- endif -%}
{%- endmacro %}

{# The last numbers of expired instruments, which the extractor asks for. #}
{% macro instrument_tails() -%}
    {{ optional_table('instrument_tails', "'' as instrument_name, '' as currency, '' as kind, toInt64(0) as last_seq") }}
{%- endmacro %}

{# When each month was proven to be the same in another database, which `tape push` writes down; in its own source alone. #}
{% macro pushes() -%}
    {{ optional_table('pushes', "toDateTime64(0, 3, 'UTC') as proven_at") }}
{%- endmacro %}
