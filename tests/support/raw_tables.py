"""Raw tables by hand, with what the question of gaps reads of them; times are minutes after 2025-01-01 UTC."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from clickhouse_connect.driver.client import Client

from extract.coverage.gaps import Gap, find_gaps

START = datetime(2025, 1, 1, tzinfo=UTC)
EPOCH = datetime(2016, 1, 1, tzinfo=UTC)
NAME = "BTC-27JUN25"

_STREAM = "currency String, kind String"
_TABLES = {
    "trades": f"instrument_name String, trade_seq Int64, timestamp DateTime64(3, 'UTC'), {_STREAM}, _dlt_load_id String",
    "coverage": f"{_STREAM}, covered_from DateTime64(3, 'UTC'), covered_to DateTime64(3, 'UTC'), _dlt_load_id String",
    "absent_trades": f"instrument_name String, first_seq Int64, last_seq Int64, {_STREAM}",
    "dropped_trades": f"instrument_name String, first_seq Int64, last_seq Int64, {_STREAM}",
    "rejected_trades": f"{_STREAM}, reason String, raw String",
    "instrument_tails": f"instrument_name String, last_seq Int64, {_STREAM}",
    "instruments": (
        "instrument_name String, currency String, kind Nullable(String), "
        "creation_timestamp Nullable(DateTime64(3, 'UTC')), expiration_timestamp Nullable(DateTime64(3, 'UTC'))"
    ),
    "_dlt_loads": "load_id String, status Int64, inserted_at DateTime64(6, 'UTC')",
}


def at(minute: float) -> datetime:
    return START + timedelta(minutes=minute)


class Raw:
    """A raw database of one future, unless told otherwise."""

    def __init__(self, client: Client, tables: Iterable[str] = ("trades", "coverage")) -> None:
        self.client = client
        client.command("create database deribit_raw")
        for table in tables:
            self.make(table)

    def make(self, table: str) -> None:
        self.client.command(
            f"create table deribit_raw.{table} ({_TABLES[table]}) engine = MergeTree order by tuple()"
        )

    def insert(self, table: str, **row: Any) -> None:
        stream = {} if table == "_dlt_loads" else {"currency": "BTC", "kind": "future"}
        row = stream | row
        self.client.insert(f"deribit_raw.{table}", [list(row.values())], column_names=list(row))

    def trades(self, minute_of: dict[int, float], name: str = NAME, **stream: str) -> None:
        """`minute_of` seq."""
        row = {"currency": "BTC", "kind": "future"} | stream
        rows = [[name, seq, at(minute), *row.values(), "1"] for seq, minute in minute_of.items()]
        names = ["instrument_name", "trade_seq", "timestamp", *row, "_dlt_load_id"]
        self.client.insert("deribit_raw.trades", rows, column_names=names)

    def covered(self, start: float | datetime, end: float, **stream: str) -> None:
        start = start if isinstance(start, datetime) else at(start)
        self.insert("coverage", covered_from=start, covered_to=at(end), _dlt_load_id="1", **stream)

    def gaps(self) -> list[tuple[int, int, str]]:
        """(first, last, where) of each."""
        return [(gap.range.first, gap.range.last, gap.where) for gap in self.all_gaps()]

    def all_gaps(self) -> list[Gap]:
        return find_gaps(self.client)
