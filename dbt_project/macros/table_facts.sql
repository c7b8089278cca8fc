{#
  Properties of the tables in `databases` ('a', 'b'), as the server prints them: one row per table and property. An empty value: the
  table has none. Shared and Replicated engines of ClickHouse Cloud count as the engines that they replace.

  `tape schema-align` reads this file too, which is why it has no other expression than `databases`.
#}
{% macro table_facts(databases) %}
with

tables as (
    -- dbt's own tables of a run in progress contain `__dbt_`.
    select database, name, engine, engine_full, sorting_key, partition_key
    from system.tables
    where database in ({{ databases }}) and position(name, '__dbt_') = 0
),

facts as (
    select
        database,
        name as table,
        arrayJoin([
            ('engine', replaceRegexpOne(engine, '^(Shared|Replicated)', '')),
            -- The engines of ClickHouse Cloud have two quoted arguments before the declared ones.
            ('version column', arrayStringConcat(arrayFilter(
                argument -> not startsWith(argument, '\''),
                arrayMap(argument -> trim(argument), splitByChar(',', extract(engine_full, '^\\w+\\(([^()]*)\\)')))
            ), ', ')),
            ('sort key', replaceRegexpOne(sorting_key, '^\\((.*)\\)$', '\\1')),
            ('partition key', replaceRegexpOne(partition_key, '^\\((.*)\\)$', '\\1')),
            ('TTL', extract(engine_full, ' TTL (.*?)(?: SETTINGS |$)'))
        ]) as fact
    from tables
    union all
    select
        database,
        table,
        arrayJoin([
            (concat('column ', name), toString(position)),
            (concat('type of ', name), type),
            (concat('codec of ', name), extract(compression_codec, '^CODEC\\((.*)\\)$'))
        ]) as fact
    from system.columns
    where (database, table) in (select tables.database, tables.name from tables)
    union all
    select
        database,
        table,
        (concat('index ', name), concat(expr, ' type ', type_full, ' granularity ', toString(granularity))) as fact
    from system.data_skipping_indices
    where (database, table) in (select tables.database, tables.name from tables)
),

final as (
    select database, table, fact.1 as property, fact.2 as value from facts
)

select * from final
{% endmacro %}
