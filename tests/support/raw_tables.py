"""Hand-made raw tables with the columns that gap detection reads; times are minutes after 2025-01-01 UTC."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from extract.clickhouse.client import Database
from extract.coverage.gaps import Gap, find_gaps
from harness.raw_tables import LOADS, create_raw_database, create_raw_table

START = datetime(2025, 1, 1, tzinfo=UTC)
EPOCH = datetime(2016, 1, 1, tzinfo=UTC)
NAME = "BTC-27JUN25"


def at(minute: float) -> datetime:
    return START + timedelta(minutes=minute)


LOAD = "1"
"""The load package of all rows, unless a test names another one."""


class Raw:
    """A raw database; rows belong to one future and one load package, which is finished, by default."""

    def __init__(
        self, database: Database, tables: Iterable[str] = ("trades", "coverage"), *, is_finished: bool = True
    ) -> None:
        self.database = database
        self.client = database.client
        create_raw_database(self.client, {*tables, LOADS})
        if is_finished:
            self.finish(LOAD)

    def finish(self, load_id: str, status: int = 0) -> None:
        """List a load package; it is finished with status 0."""
        self.insert(LOADS, load_id=load_id, status=status, inserted_at=at(12))

    def make(self, table: str) -> None:
        create_raw_table(self.client, table)

    def insert(self, table: str, **row: Any) -> None:
        stream = {} if table == LOADS else {"currency": "BTC", "kind": "future"}
        load = {} if table in (LOADS, "dropped_trades") else {"_dlt_load_id": LOAD}
        row = stream | load | row
        self.client.insert(f"deribit_raw.{table}", [list(row.values())], column_names=list(row))

    def trades(
        self, minute_of: dict[int, float], name: str = NAME, load_id: str = LOAD, **stream: str
    ) -> None:
        """Insert trades, given the minute of each seq."""
        row = {"currency": "BTC", "kind": "future"} | stream
        rows = [[name, seq, at(minute), *row.values(), load_id] for seq, minute in minute_of.items()]
        names = ["instrument_name", "trade_seq", "timestamp", *row, "_dlt_load_id"]
        self.client.insert("deribit_raw.trades", rows, column_names=names)

    def covered(self, start: float | datetime, end: float, load_id: str = LOAD, **stream: str) -> None:
        start = start if isinstance(start, datetime) else at(start)
        self.insert("coverage", covered_from=start, covered_to=at(end), _dlt_load_id=load_id, **stream)

    def gaps(self) -> list[tuple[int, int, str]]:
        """(first, last, where) of each gap."""
        return [(gap.range.first, gap.range.last, gap.where) for gap in self.all_gaps()]

    def all_gaps(self) -> list[Gap]:
        return find_gaps(self.database)
