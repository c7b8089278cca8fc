"""Measure bytes on disk by inserting sample trades into a temporary table."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyarrow as pa

from extract.clickhouse.client import shared_database
from extract.clickhouse.create import create_missing
from extract.clickhouse.disk import disk_use
from extract.clickhouse.partition_limit import divide_by_month, months_of, partition_limit
from extract.clickhouse.settings import RAW_DATABASE, ClickHouseSettings
from extract.deribit.arrow import with_stream_columns
from extract.deribit.streams import Stream
from extract.source.tables import TRADES

SCRATCH_DATABASE = "deribit_scratch"

StorageProbe = Callable[[pa.Table, Stream], int]
"""Returns the bytes on disk of trades in PAGE_SCHEMA, as freshly loaded in one insert."""


@contextmanager
def storage_probe(settings: ClickHouseSettings) -> Iterator[StorageProbe]:
    """Create a temporary table in this database, and drop it afterwards. Raises OutsideError or UsageError."""
    database = shared_database(settings)
    has_trades = database.value(f"exists table {RAW_DATABASE}.trades")
    is_scratch = not database.value(f"exists database {RAW_DATABASE}")
    home, name = SCRATCH_DATABASE if is_scratch else RAW_DATABASE, f"storage_probe_{os.getpid()}"
    table = f"{home}.{name}"
    create = f"create table {table} as {RAW_DATABASE}.trades" if has_trades else TRADES.create_sql(table)
    create_missing(database, home, {name: create})

    def probe(trades: pa.Table, stream: Stream) -> int:
        if not trades.num_rows:
            return 0
        arrow = with_stream_columns(trades, stream.currency, stream.kind)
        load_id = pa.repeat(pa.scalar("1700000000.123456"), arrow.num_rows)
        arrow = arrow.append_column("_dlt_load_id", load_id)
        database.command(f"truncate table {table}")
        with database.translated_errors():
            months = len(set(months_of(arrow).tolist()))
            limit = partition_limit(database.client, months)
            parts = divide_by_month(arrow, int(limit.most)) if months > limit.most else [("", arrow)]
            for _, part in parts:
                database.client.insert_arrow(table, part, settings=limit.settings)
        return disk_use(settings, table).bytes

    try:
        yield probe
    finally:
        database.command(f"drop table {table} sync")
        if is_scratch:
            database.command(f"drop database {SCRATCH_DATABASE} sync")
