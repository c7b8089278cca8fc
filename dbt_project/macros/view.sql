{#
  dbt's `view`, but a view that is unchanged is not created again: its query as the server prints it, its columns, and their
  descriptions are those of the project. `dbt run --full-refresh` creates all views. With --empty an existing view stays as it is.
  `dbt clone` creates a view for every model, and cannot for one with parameters: nothing can be selected from it without them.
#}
{% materialization view, adapter='clickhouse' %}
    {%- set existing = load_cached_relation(this) -%}
    {%- if config.get('materialized') == 'parameterized_view' -%}
        {{ store_raw_result('main', message='NOT CLONED', code='NOT CLONED', rows_affected='0', agate_table=none) }}
        {{ return({'relations': []}) }}
    {%- endif -%}
    {%- if existing and existing.is_view and not should_full_refresh() and (flags.EMPTY or is_unchanged_view(this, sql)) -%}
        {{ store_raw_result('main', message='UNCHANGED', code='UNCHANGED', rows_affected='0', agate_table=none) }}
        {{ return({'relations': [this.incorporate(type='view')]}) }}
    {%- endif -%}
    {{ return(dbt.materialization_view_clickhouse()) }}
{% endmaterialization %}

{# In one query: `dbt run` asks it of each view. #}
{% macro is_unchanged_view(relation, sql) -%}
    {%- set columns = [] -%}
    {%- for column in model.columns.values() -%}
        {%- do columns.append('(' ~ sql_text(column.name) ~ ', ' ~ sql_text(column.data_type) ~ ', ' ~ sql_text(column.description) ~ ')') -%}
    {%- endfor -%}
    {%- set select = sql ~ '\n' ~ adapter.get_model_query_settings(model) -%}
    {%- set query -%}
        select count()
        from system.tables
        where database = {{ sql_text(relation.schema) }} and name = {{ sql_text(relation.identifier) }}
            and formatQuerySingleLine(as_select) = formatQuerySingleLine({{ sql_text(select) }})
            and comment = {{ sql_text(model.description) }}
            and (
                select arraySort(groupArray((name, type, comment))) from system.columns
                where database = {{ sql_text(relation.schema) }} and table = {{ sql_text(relation.identifier) }}
            ) = arraySort([{{ columns | join(', ') }}])
    {%- endset -%}
    {{ return(run_query(query).rows[0][0] == 1) }}
{%- endmacro %}
