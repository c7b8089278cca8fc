"""A dlt destination for ClickHouse that speaks HTTP(S) alone: one port, one warm pool, every insert exactly once.

It keeps dlt's own rooms: configuration, factory, sql_client, job_client; `tokens` is what dlt lacks. A dlt dataset
is a ClickHouse database, so tables keep their plain names:

    pipeline = dlt.pipeline("deribit_trades", destination=tape_clickhouse(settings), dataset_name="deribit_raw")
"""

from extract.clickhouse.destination.factory import tape_clickhouse
from extract.clickhouse.destination.job_client import TYPE_HINT, column_types

__all__ = ["TYPE_HINT", "column_types", "tape_clickhouse"]
