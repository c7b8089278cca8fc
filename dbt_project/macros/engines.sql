{#
  The adapter's macro, with the replicated engine where TAPE_REPLICATED is set: on a cluster of one's own, whose databases have the
  engine `Replicated`. ClickHouse Cloud replicates every table, and needs no variable.
#}
{% macro engine_clause() %}
    engine = {{ 'Replicated' if is_replicated() }}{{ config.get('engine', default='MergeTree()') }}
{%- endmacro %}

{#
  The adapter's statement, but two first builds at once are no error: the second uses the table that the first has created.
  Intermediate tables of a full refresh are not shared.
#}
{% macro create_table_or_empty(temporary, relation, sql, has_contract) -%}
    {%- set create = dbt.create_table_or_empty(temporary, relation, sql, has_contract) -%}
    {{ create | replace('create table ', 'create table if not exists ', 1) if relation.identifier == this.identifier else create }}
{%- endmacro %}

{# As `IS_REPLICATED` in extract/clickhouse/settings.py. #}
{% macro is_replicated() -%} {{ return(env_var('TAPE_REPLICATED', '0') not in ('', '0')) }} {%- endmacro %}

{# Wait until other replicas have started a new table; until then they may not count for the quorum of an insert. #}
{% macro wait_for_replicas() %}
    {%- if execute and is_replicated() -%} {%- do run_statement('select sleep(1)') -%} {%- endif -%}
{% endmacro %}

{# The adapter's macro, which is followed by an insert into the new table. #}
{% macro clickhouse__create_empty_table(temporary, relation, sql, has_contract, statement_name='create_table_empty') %}
    {{ dbt.clickhouse__create_empty_table(temporary, relation, sql, has_contract, statement_name) }}
    {%- do wait_for_replicas() if not temporary -%}
{% endmacro %}
