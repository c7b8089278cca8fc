"""A dlt destination for ClickHouse over HTTP(S): one port, one connection pool, exactly-once inserts.

It has dlt's modules: configuration, factory, sql_client, job_client; `dedup_tokens` adds the exactly-once inserts, and
`hints` the types of columns. The two clients are imported when the first package is loaded, so that a run without one
starts sooner. A dlt dataset is a ClickHouse database, so tables have plain names:

    pipeline = dlt.pipeline("deribit_trades", destination=tape_clickhouse(settings), dataset_name="deribit_raw")
"""

from extract.clickhouse.destination.factory import tape_clickhouse
from extract.clickhouse.destination.hints import TYPE_HINT, column_types

__all__ = ["TYPE_HINT", "column_types", "tape_clickhouse"]
