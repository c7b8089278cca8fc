"""What trades take at rest, weighed: a scratch table like deribit_raw.trades, filled and read in system.parts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from urllib3.exceptions import HTTPError

from extract.clickhouse.client import shared_client
from extract.clickhouse.errors import to_tape_error
from extract.clickhouse.settings import RAW_DATABASE, ClickHouseSettings
from extract.deribit.arrow import with_stream_columns
from extract.deribit.streams import Stream
from extract.source.tables import TRADES

SCRATCH_DATABASE = "deribit_scratch"


class StorageProbe:
    """Weighs one stream's trades at a time."""

    def __init__(self, client: Client, table: str) -> None:
        self._client = client
        self._table = table

    def bytes_on_disk(self, trades: pa.Table, stream: Stream) -> int:
        """Bytes on disk of trades in PAGE_SCHEMA, as freshly loaded in one insert."""
        if not trades.num_rows:
            return 0
        arrow = with_stream_columns(trades, stream.currency, stream.kind)
        load_id = pa.repeat(pa.scalar("1700000000.123456"), arrow.num_rows)
        self._client.command(f"TRUNCATE TABLE {self._table}")
        self._client.insert_arrow(self._table, arrow.append_column("_dlt_load_id", load_id))
        sql = (
            "SELECT sum(bytes_on_disk) FROM system.parts "
            "WHERE active AND database || '.' || table = {table:String}"
        )
        [(size,)] = self._client.query(sql, parameters={"table": self._table}).result_rows
        return int(size)


@contextmanager
def storage_probe(settings: ClickHouseSettings) -> Iterator[StorageProbe]:
    """A scale in this database, gone afterwards. Raises OutsideError or UsageError where the server refuses."""
    client = shared_client(settings)
    try:
        has_raw = client.command(f"EXISTS TABLE {RAW_DATABASE}.trades")
        table = f"{RAW_DATABASE if has_raw else SCRATCH_DATABASE}.weighed_{os.getpid()}"
        if not has_raw:
            client.command(f"CREATE DATABASE IF NOT EXISTS {SCRATCH_DATABASE}")
        client.command(
            f"CREATE TABLE {table} AS {RAW_DATABASE}.trades" if has_raw else TRADES.create_sql(table)
        )
        try:
            yield StorageProbe(client, table)
        finally:
            client.command(f"DROP TABLE {table} SYNC")
            if not has_raw:
                client.command(f"DROP DATABASE {SCRATCH_DATABASE} SYNC")
    except (ClickHouseError, HTTPError, OSError) as error:
        raise to_tape_error(error, settings) from error
