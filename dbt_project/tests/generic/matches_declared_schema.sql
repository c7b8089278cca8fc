{#
  The table or view in the database matches its yml: column names, order, types and codecs; engine, version column, sort key,
  partition key, TTL and skip indexes. (On an incremental run, dbt's contract checks only the query.)
  One row per difference: model, property, declared, actual. Each is also logged, so that the output of the run names it.

  Types and expressions are compared as the server prints them. Shared and Replicated variants of an engine count as equal.
#}
{% test matches_declared_schema(model) %}
{{ blocks_nothing() }}
{%- if execute -%}
    {%- set drift = schema_drift_query(declared_node(model.identifier)) -%}
    {%- set rows = run_query(drift).rows -%}
    {%- for row in rows -%}
        {%- do log(row[0] ~ ': ' ~ row[1] ~ ': declared ' ~ (row[2] or 'none') ~ ', actual ' ~ (row[3] or 'none'), info=true) -%}
    {%- endfor -%}
    {#- Without a difference the statement need not run again. -#}
    {{ drift if rows else 'select 1 where false' }}
{%- else -%}
    select 1 where false
{%- endif -%}
{% endtest %}
