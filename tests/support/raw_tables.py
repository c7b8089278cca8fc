"""Hand-made raw tables with the columns that gap detection reads; times are minutes after 2025-01-01 UTC."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from extract.clickhouse.client import Database
from extract.coverage.gaps import Gap, find_gaps
from harness.raw_tables import create_raw_database, create_raw_table

START = datetime(2025, 1, 1, tzinfo=UTC)
EPOCH = datetime(2016, 1, 1, tzinfo=UTC)
NAME = "BTC-27JUN25"


def at(minute: float) -> datetime:
    return START + timedelta(minutes=minute)


class Raw:
    """A raw database; rows belong to one future by default."""

    def __init__(self, database: Database, tables: Iterable[str] = ("trades", "coverage")) -> None:
        self.database = database
        self.client = database.client
        create_raw_database(self.client, tables)

    def make(self, table: str) -> None:
        create_raw_table(self.client, table)

    def insert(self, table: str, **row: Any) -> None:
        stream = {} if table == "_dlt_loads" else {"currency": "BTC", "kind": "future"}
        row = stream | row
        self.client.insert(f"deribit_raw.{table}", [list(row.values())], column_names=list(row))

    def trades(self, minute_of: dict[int, float], name: str = NAME, **stream: str) -> None:
        """Insert trades, given the minute of each seq."""
        row = {"currency": "BTC", "kind": "future"} | stream
        rows = [[name, seq, at(minute), *row.values(), "1"] for seq, minute in minute_of.items()]
        names = ["instrument_name", "trade_seq", "timestamp", *row, "_dlt_load_id"]
        self.client.insert("deribit_raw.trades", rows, column_names=names)

    def covered(self, start: float | datetime, end: float, **stream: str) -> None:
        start = start if isinstance(start, datetime) else at(start)
        self.insert("coverage", covered_from=start, covered_to=at(end), _dlt_load_id="1", **stream)

    def gaps(self) -> list[tuple[int, int, str]]:
        """(first, last, where) of each gap."""
        return [(gap.range.first, gap.range.last, gap.where) for gap in self.all_gaps()]

    def all_gaps(self) -> list[Gap]:
        return find_gaps(self.database)
