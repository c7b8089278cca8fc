{# The project's model of that name. #}
{% macro declared_node(name) %}
    {%- for node in graph.nodes.values() if node.resource_type == 'model' and node.alias == name -%}
        {{ return(node) }}
    {%- endfor -%}
    {{ exceptions.raise_compiler_error('No model is called ' ~ name) }}
{% endmacro %}

{% macro sql_text(value) -%}
    '{{ (value or '') | string | replace("\\", "\\\\") | replace("'", "\\'") }}'
{%- endmacro %}

{# 'a, b' of a list or of one text. #}
{% macro as_list(value) -%}
    {{ return(value if value is string else (value or []) | join(', ')) }}
{%- endmacro %}

{# Properties of a model's table as its yml declares them, by name; empty for a view. #}
{% macro declared_table(node) %}
    {%- set engine = node.config.get('engine', '') if node.config.materialized != 'view' else 'View' -%}
    {%- set things = {
        'engine': engine.split('(')[0],
        'version column': engine.split('(')[1].rstrip(')') if '(' in engine else '',
        'sort key': as_list(node.config.get('order_by')),
        'partition key': as_list(node.config.get('partition_by')),
        'TTL': node.config.get('ttl') or '',
    } -%}
    {%- for index in node.config.get('indexes') or [] -%}
        {%- do things.update({'index ' ~ index.name: index.definition}) -%}
    {%- endfor -%}
    {{ return(things) }}
{% endmacro %}

{% macro schema_drift_query(node) %}
with

declared as (
    select thing, declared
    from values(
        'thing String, declared String',
        {%- for thing, text in declared_table(node).items() %}
        ({{ sql_text(thing) }}, {{ sql_text(text) }}),
        {%- endfor %}
        {%- for column in node.columns.values() %}
        ({{ sql_text('column ' ~ column.name) }}, {{ sql_text(loop.index) }}),
        ({{ sql_text('type of ' ~ column.name) }}, {{ sql_text(column.data_type) }}),
        ({{ sql_text('codec of ' ~ column.name) }}, {{ sql_text(column.get('codec')) }}){{ ',' if not loop.last }}
        {%- endfor %}
    )
),

tables as (
    select
        replaceRegexpOne(engine, '^(Shared|Replicated)', '') as engine,
        -- Engines of ClickHouse Cloud have two additional quoted arguments first.
        arrayStringConcat(arrayFilter(
            argument -> not startsWith(argument, '\''),
            arrayMap(argument -> trim(argument), splitByChar(',', extract(engine_full, '^\\w+\\(([^()]*)\\)')))
        ), ', ') as version_column,
        replaceRegexpOne(sorting_key, '^\\((.*)\\)$', '\\1') as sort_key,
        replaceRegexpOne(partition_key, '^\\((.*)\\)$', '\\1') as partition_key,
        extract(engine_full, ' TTL (.*?)(?: SETTINGS |$)') as ttl
    from system.tables
    where database = '{{ node.schema }}' and name = '{{ node.alias }}'
),

actual as (
    select
        arrayJoin([
            ('engine', engine), ('version column', version_column), ('sort key', sort_key),
            ('partition key', partition_key), ('TTL', ttl)
        ]) as fact,
        fact.1 as thing,
        fact.2 as actual
    from tables
    union all
    select ('', '') as fact, concat('index ', name) as thing, concat(expr, ' type ', type_full, ' granularity ', toString(granularity)) as actual
    from system.data_skipping_indices
    where database = '{{ node.schema }}' and table = '{{ node.alias }}'
    union all
    select
        arrayJoin([
            (concat('column ', name), toString(position)), (concat('type of ', name), type),
            (concat('codec of ', name), extract(compression_codec, '^CODEC\\((.*)\\)$'))
        ]) as fact,
        fact.1 as thing,
        fact.2 as actual
    from system.columns
    where database = '{{ node.schema }}' and table = '{{ node.alias }}'
),

final as (
    select
        '{{ node.alias }}' as model,
        if(declared.thing = '', actual.thing, declared.thing) as thing,
        declared.declared as declared,
        actual.actual as actual
    from declared
    full outer join actual on declared.thing = actual.thing
    where declared.declared != actual.actual
    order by thing
)

select * from final
{% endmacro %}
