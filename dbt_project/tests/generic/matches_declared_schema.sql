{#
  The live table or view is what its yml declares: column names, order, types and codecs; engine, version column, sort key,
  partition key, TTL and skip indexes. dbt's contract cannot say this: on an incremental run it looks at the query alone.
  One row per difference: model, thing, declared, actual. Each is logged too, so that the run says what is wrong.

  Types and expressions are compared as the server prints them. ClickHouse Cloud's Shared and Replicated engines are taken
  for what they are.
#}
{% test matches_declared_schema(model) %}
{%- if execute -%}
    {%- set drift = schema_drift_query(declared_node(model.identifier)) -%}
    {%- for row in run_query(drift).rows -%}
        {%- do log(row[0] ~ ': ' ~ row[1] ~ ': declared ' ~ (row[2] or 'none') ~ ', there is ' ~ (row[3] or 'none'), info=true) -%}
    {%- endfor -%}
    {{ drift }}
{%- else -%}
    select 1 where false
{%- endif -%}
{% endtest %}
