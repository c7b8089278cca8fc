{#
  dbt's `persist_docs`, but comments that are in the database already are not written again, because each run would otherwise alter
  every table.
#}
{% macro clickhouse__persist_docs(relation, model, for_relation, for_columns) -%}
    {%- if not has_comments(relation, model) -%}
        {%- do dbt.clickhouse__persist_docs(relation, model, for_relation, for_columns) -%}
    {%- endif -%}
{%- endmacro %}

{# Whether the comments of the relation and its columns are the descriptions in the yml. #}
{% macro has_comments(relation, model) -%}
    {%- set columns = [] -%}
    {%- for column in model.columns.values() -%}
        {%- do columns.append('(' ~ sql_text(column.name) ~ ', ' ~ sql_text(column.description) ~ ')') -%}
    {%- endfor -%}
    {%- set query -%}
        select count()
        from system.tables
        where database = {{ sql_text(relation.schema) }} and name = {{ sql_text(relation.identifier) }}
            and comment = {{ sql_text(model.description) }}
            and (
                select arraySort(groupArray((name, comment))) from system.columns
                where database = {{ sql_text(relation.schema) }} and table = {{ sql_text(relation.identifier) }}
            ) = arraySort([{{ columns | join(', ') }}])
    {%- endset -%}
    {{ return(run_query(query).rows[0][0] == 1) }}
{%- endmacro %}
