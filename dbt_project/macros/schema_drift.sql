{# The project's model of that name or alias. #}
{% macro declared_node(name) %}
    {%- for node in graph.nodes.values() if node.resource_type == 'model' and name in (node.name, node.alias) -%}
        {{ return(node) }}
    {%- endfor -%}
    {{ exceptions.raise_compiler_error('No model is called ' ~ name) }}
{% endmacro %}

{# The relation of that model, whether or not the current node depends on it. #}
{% macro declared_relation(name) -%}
    {%- set node = declared_node(name) -%}
    {{ return(api.Relation.create(schema=node.schema, identifier=node.alias)) }}
{%- endmacro %}

{# Its name with the schema. #}
{% macro declared_name(name) -%}
    {%- set relation = declared_relation(name) -%}
    {{ return(relation.schema ~ '.' ~ relation.identifier) }}
{%- endmacro %}

{% macro sql_text(value) -%}
    '{{ (value or '') | string | replace("\\", "\\\\") | replace("'", "\\'") }}'
{%- endmacro %}

{# 'a, b' of a list or of one text. #}
{% macro as_list(value) -%}
    {{ return(value if value is string else (value or []) | join(', ')) }}
{%- endmacro %}

{# Properties of a model's table as its yml declares them, by name; empty for a view. #}
{% macro declared_properties(node) %}
    {%- set engine = node.config.get('engine', '') if node.config.materialized != 'view' else 'View' -%}
    {%- set properties = {
        'engine': engine.split('(')[0],
        'version column': engine.split('(')[1].rstrip(')') if '(' in engine else '',
        'sort key': as_list(node.config.get('order_by')),
        'partition key': as_list(node.config.get('partition_by')),
        'TTL': node.config.get('ttl') or '',
    } -%}
    {%- for index in node.config.get('indexes') or [] -%}
        {%- do properties.update({'index ' ~ index.name: index.definition}) -%}
    {%- endfor -%}
    {{ return(properties) }}
{% endmacro %}

{% macro schema_drift_query(node) %}
with

declared as (
    select property, declared
    from values(
        'property String, declared String',
        {%- for property, text in declared_properties(node).items() %}
        ({{ sql_text(property) }}, {{ sql_text(text) }}),
        {%- endfor %}
        {%- for column in node.columns.values() %}
        ({{ sql_text('column ' ~ column.name) }}, {{ sql_text(loop.index) }}),
        ({{ sql_text('type of ' ~ column.name) }}, {{ sql_text(column.data_type) }}),
        ({{ sql_text('codec of ' ~ column.name) }}, {{ sql_text(column.get('codec')) }}){{ ',' if not loop.last }}
        {%- endfor %}
    )
),

actual as (
    select property, value as actual
    from ({{ table_facts("'" ~ node.schema ~ "'") }})
    where table = '{{ node.alias }}'
),

final as (
    select
        '{{ node.alias }}' as model,
        if(declared.property = '', actual.property, declared.property) as property,
        declared.declared as declared,
        actual.actual as actual
    from declared
    full outer join actual on declared.property = actual.property
    where declared.declared != actual.actual
    order by property
)

select * from final
{% endmacro %}
