"""What the tables of one ClickHouse are, as things and their texts: the part of `system` that two databases must agree on.

The names of the things are those of the dbt test `matches_declared_schema`.
"""

from __future__ import annotations

from clickhouse_connect.driver.client import Client

from extract.clickhouse.settings import MART_DATABASE, RAW_DATABASE

Things = dict[str, str]
Catalogue = dict[str, Things]

# Cloud's Shared and Replicated engines are ours with two quoted arguments of their own in front.
# A table whose name holds `__dbt_` is dbt's own, while a run is going on.
_THINGS = """
with

ours as (
    select database, name, engine, engine_full, sorting_key, partition_key
    from system.tables
    where database in {databases:Array(String)} and position(name, '__dbt_') = 0
),

facts as (
    select
        database,
        name as table,
        arrayJoin([
            ('engine', replaceRegexpOne(engine, '^(Shared|Replicated)', '')),
            ('version column', arrayStringConcat(arrayFilter(
                argument -> not startsWith(argument, '\\''),
                arrayMap(argument -> trim(argument), splitByChar(',', extract(engine_full, '^\\\\w+\\\\(([^()]*)\\\\)')))
            ), ', ')),
            ('sort key', sorting_key),
            ('partition key', replaceRegexpOne(partition_key, '^\\\\((.*)\\\\)$', '\\\\1')),
            ('TTL', extract(engine_full, ' TTL (.*?)(?: SETTINGS |$)'))
        ]) as fact
    from ours
    union all
    select
        database,
        table,
        arrayJoin([
            (concat('column ', name), toString(position)),
            (concat('type of ', name), type),
            (concat('codec of ', name), extract(compression_codec, '^CODEC\\\\((.*)\\\\)$'))
        ]) as fact
    from system.columns
    where (database, table) in (select ours.database, ours.name from ours)
    union all
    select
        database,
        table,
        (concat('index ', name), concat(expr, ' type ', type_full, ' granularity ', toString(granularity))) as fact
    from system.data_skipping_indices
    where (database, table) in (select ours.database, ours.name from ours)
),

final as (
    select concat(database, '.', table) as table, fact.1 as thing, fact.2 as text from facts
)

select * from final"""


def read_catalogue(client: Client) -> Catalogue:
    """`database.table` → thing → text, of our two databases; a text of '' says that there is none."""
    catalogue: Catalogue = {}
    databases = {"databases": [RAW_DATABASE, MART_DATABASE]}
    for table, thing, text in client.query(_THINGS, parameters=databases).result_rows:
        catalogue.setdefault(table, {})[thing] = text
    return catalogue
