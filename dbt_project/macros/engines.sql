{#
  The adapter's macro, with the replicated engine where TAPE_REPLICATED is set: on a cluster of one's own, whose databases have the
  engine `Replicated`. ClickHouse Cloud replicates every table, and needs no variable.
#}
{% macro engine_clause() %}
    engine = {{ 'Replicated' if env_var('TAPE_REPLICATED', '0') != '0' }}{{ config.get('engine', default='MergeTree()') }}
{%- endmacro %}

{#
  The adapter's statement, but two first builds at once are no error: the second uses the table that the first has created.
  Intermediate tables of a full refresh are not shared.
#}
{% macro create_table_or_empty(temporary, relation, sql, has_contract) -%}
    {%- set create = dbt.create_table_or_empty(temporary, relation, sql, has_contract) -%}
    {{ create | replace('create table ', 'create table if not exists ', 1) if relation.identifier == this.identifier else create }}
{%- endmacro %}
