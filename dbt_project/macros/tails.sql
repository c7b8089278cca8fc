{# The last numbers of expired instruments, which the extractor asks for; there is no such table before it first does. #}
{% macro instrument_tails() -%}
    {%- set tails = adapter.get_relation(none, source('deribit_raw', 'trades').schema, 'instrument_tails') if execute -%}
    {%- if tails and model.resource_type != 'unit_test' -%}
    {{ tails }}
    {%- else -%}
    (select '' as instrument_name, '' as currency, '' as kind, toInt64(0) as last_seq where false)
    {%- endif -%}
{%- endmacro %}
