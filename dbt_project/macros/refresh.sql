{#
  Tables that whoever loads keeps fresh (`extract/clickhouse/refresh.py`), portion by portion of load packages. The SQL of such a
  table's model is what a portion adds to it. It is stored as a parameterized view, `refresh_<table>`, so that

      insert into deribit.ohlcv_1m_versions select * from deribit.refresh_ohlcv_1m_versions(touched = 7, version = 7)

  refreshes the table without dbt. (The loader sends the view's query instead, see `refresh_plan`, because it is analysed only once then.)
  Doing so twice is harmless: rows are computed anew, never added up.
#}

{#
  Load packages of the portion. Unit tests override this macro and the next. sqlfluff renders them without dbt, where `execute` is
  undefined, and cannot parse a parameter.
#}
{% macro refreshed_loads() -%} {{ '{loads:Array(String)}' if execute else "['']" }} {%- endmacro %}

{#
  Number of rows of `refresh_log`, to which a row is added when all that a table is computed from has been inserted, and before it is
  computed. The greatest version of a row wins, so that of two refreshes at once the one that may have missed rows of the other loses.
#}
{% macro refresh_version() -%} {{ '{version:UInt64}' if execute else 'toUInt64(0)' }} {%- endmacro %}

{#
  Version of a row of `moved_trades`. What a refresh records is newer than what it or an earlier one settles, so a move that is recorded
  again is no longer settled.
#}
{% macro move_version(is_settled=false) -%}
    2 * assumeNotNull((select count() from {{ ref('refresh_log') }})) + {{ 0 if is_settled else 1 }}
{%- endmacro %}

{# Version under which the portion's minutes are in `touched_minutes`. #}
{% macro touched_version() -%} {{ '{touched:UInt64}' if execute else 'toUInt64(0)' }} {%- endmacro %}

{% macro is_refreshed(load_id='load_id') -%} {{ load_id }} in {{ refreshed_loads() }} {%- endmacro %}

{#
  CTE `portion`: the portion's rows of `stg_deribit__trades`. That view parses the name of each row; here they are parsed once per
  instrument.
#}
{% macro refreshed_trades() %}
{{ parsed_names(ref('stg_deribit__trades'), is_refreshed()) }},

portion as (
    select
        trades.instrument_name as instrument_name,
        trades.* except (instrument_name, underlying, quote_currency, settlement_currency, expiry, strike, option_type),
        {% for column in ('underlying', 'quote_currency', 'settlement_currency', 'option_type') -%}
        toLowCardinality(names.{{ column }}) as {{ column }},
        {% endfor -%}
        names.expiry as expiry,
        names.strike as strike
    from {{ ref('stg_deribit__trades') }} as trades
    inner join names on trades.instrument_name = names.instrument_name
    where {{ is_refreshed('trades.load_id') }}
)
{% endmacro %}

{# Schema and name of the view that refreshes a relation. #}
{% macro refresh_view(relation) -%} {{ relation.schema }}.refresh_{{ relation.identifier }} {%- endmacro %}

{# Name of the view that a declared step reads, with its schema. #}
{% macro step_view(step) -%}
    {{ return(declared_name(step.view) if step.view else refresh_view(declared_relation(step.table))) }}
{%- endmacro %}

{# The declared steps of a refresh, see `refresh_plan`. The graph is empty while dbt parses. #}
{% macro refresh_steps() %}
    select toUInt8(step.1) as position, step.2 as table_name, step.3 as view_name, step.4::Array(String) as parameters
    from (
        select arrayJoin([
            {%- for step in var('refresh_steps') if execute %}
            ({{ loop.index }}, '{{ declared_name(step.table) }}', '{{ step_view(step) }}', {{ step.get('parameters', []) | list }})
            {{- ',' if not loop.last }}
            {%- else %}
            (0, '', '', [''])
            {%- endfor %}
        ]) as step
    )
{% endmacro %}

{# The SQL of a refresh view with parameters that select nothing, for the check of the contract. #}
{% macro bind_nothing(sql) -%}
    {%- set without_versions = sql | replace(refresh_version(), 'toUInt64(0)') | replace(touched_version(), 'toUInt64(0)') -%}
    {{ return(without_versions | replace(refreshed_loads(), '[]::Array(String)')) }}
{%- endmacro %}

{#
  A table that is kept fresh, and its refresh view. An existing table is never replaced, except by --full-refresh. The config `mend`
  names the macro that compares it with what it is computed from (macros/mend.sql).
#}
{% materialization refreshed_table, adapter='clickhouse' %}
    {%- set existing = load_cached_relation(this) -%}
    {%- set table = this.incorporate(type='table') -%}
    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {%- if existing and (existing.is_view or (should_full_refresh() and not flags.EMPTY)) -%} {#- `dbt clone` creates views -#}
        {%- do adapter.drop_relation(existing) -%}
        {%- set existing = none -%}
    {%- endif -%}
    {%- if not existing -%}
        {%- call statement('create_table') -%}
            create table if not exists {{ table }} {{ on_cluster_clause(table) }}
            {{ get_table_columns_and_constraints() }}
            {{ engine_clause() }}
            {{ order_cols(label='order by') }}
            {{ partition_cols(label='partition by') }}
            {{ ttl_config(label='ttl') }}
            {{ adapter.get_model_settings(model, config.get('engine')) }}
        {%- endcall -%}
        {%- set indexes = [] -%}
        {%- for index in config.get('indexes', []) -%}
            {%- do indexes.append('add index if not exists ' ~ index.name ~ ' ' ~ index.definition) -%}
        {%- endfor -%}
        {%- if indexes -%} {%- do run_statement('alter table ' ~ table ~ ' ' ~ indexes | join(', ')) -%} {%- endif -%}
        {%- do wait_for_replicas() -%}
    {%- endif -%}
    {%- set view = api.Relation.create(schema=table.schema, identifier='refresh_' ~ table.identifier, type='view') -%}
    {%- if not flags.EMPTY and not is_same_query(view, sql) -%}
        {%- do assert_declared_columns() if existing -%}
        {{ get_assert_columns_equivalent(bind_nothing(sql)) }}
    {%- endif -%}
    {%- do create_parameterized_view(view, sql) -%}
    {%- do persist_docs(table, model) -%}
    {#- With --defer, tables of another environment can be read, but are not written: then nothing is compared. -#}
    {#- dbt's cache does not have a log that was created just now. -#}
    {%- set log_table = table if model.name == 'refresh_log' else load_relation(declared_relation('refresh_log')) -%}
    {%- if not flags.EMPTY and log_table and load_relation(declared_relation('verified_months')) -%}
        {%- set mend = context[config.get('mend')] if config.get('mend') -%}
        {%- do mend() if mend -%}
    {%- endif -%}
    {{ run_hooks(post_hooks, inside_transaction=False) }}
    {{ return({'relations': [table, view]}) }}
{% endmaterialization %}

{#
  Fail if the model's table has other columns than the yml declares, as after a change of the model. Its refresh view stays as it was until
  the table is replaced, so loads keep refreshing the table.
#}
{% macro assert_declared_columns() %}
    {%- set query -%}
        select distinct multiIf(
            declared = '', property || ' is not declared',
            actual = '', property || ' is missing',
            startsWith(property, 'type of '), property || ' is ' || actual || ' instead of ' || declared,
            'columns have another order'
        ) as difference
        from ({{ schema_drift_query(declared_node(model.name)) }})
        where startsWith(property, 'column ') or (startsWith(property, 'type of ') and declared != '' and actual != '')
        order by difference
    {%- endset -%}
    {%- set differences = column_of(query) -%}
    {%- if differences -%}
        {%- set table = this.schema ~ '.' ~ this.identifier -%}
        {%- set replace = 'run dbt build --full-refresh --select ' ~ model.name -%}
        {%- if config.get('full_refresh') is false -%} {%- set replace = 'drop table ' ~ table ~ ' in ClickHouse' -%} {%- endif -%}
        {{ exceptions.raise_compiler_error(
            table ~ ' is not the table of its model: ' ~ differences | join(', ') ~ '. To replace it, ' ~ replace ~ ', then run dbt build.'
        ) }}
    {%- endif -%}
{% endmacro %}

{# A view with parameters: a further step of a refresh, for a table that another model creates, or one to query. #}
{% materialization parameterized_view, adapter='clickhouse' %}
    {%- set view = this.incorporate(type='view') -%}
    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {%- do create_parameterized_view(view, sql) -%}
    {%- do persist_docs(view, model) -%}
    {{ run_hooks(post_hooks, inside_transaction=False) }}
    {{ return({'relations': [view]}) }}
{% endmaterialization %}

{#
  Create a view with parameters, unless it exists with the same query. With --empty an existing one stays as it is: a refresh would otherwise
  record load packages as consumed and insert nothing.
#}
{% macro create_parameterized_view(view, sql) %}
    {%- if (flags.EMPTY and adapter.get_relation(none, view.schema, view.identifier)) or is_same_query(view, sql) -%}
        {{ store_raw_result('main', message='UNCHANGED', code='UNCHANGED', rows_affected='0', agate_table=none) }}
    {%- else -%}
        {%- call statement('main') -%}
            create or replace view {{ view }} {{ on_cluster_clause(view) }} as (
                {{ sql }}
                {{ adapter.get_model_query_settings(model) }}
            )
        {%- endcall -%}
    {%- endif -%}
{% endmacro %}

{% macro is_same_query(view, sql) -%}
    {%- set query -%}
        select count() from system.tables
        where database = {{ sql_text(view.schema) }} and name = {{ sql_text(view.identifier) }}
            and formatQuerySingleLine(as_select) = formatQuerySingleLine({{ sql_text(sql ~ '\n' ~ adapter.get_model_query_settings(model)) }})
    {%- endset -%}
    {{ return(run_query(query).rows[0][0] == 1) }}
{%- endmacro %}

{# The model's own table, which it reads by key. In a unit test, its input `this`. #}
{% macro this_table() -%} {{ this }} {%- endmacro %}

{# Let dbt build the named models before this one, although its SQL does not read them. A unit test needs no rows of them. #}
{% macro built_after() -%}
    {%- if model.resource_type != 'unit_test' -%}
        {%- for name in varargs -%} {%- do ref(name) -%} {%- endfor -%}
    {%- endif -%}
{%- endmacro %}
