"""A small market in ClickHouse for tests of what reads the models: trades of two months, gaps, and series."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from extract.clickhouse.client import Database, shared_database
from extract.clickhouse.refresh import refresh
from extract.clickhouse.settings import clickhouse_settings
from extract.sandbox.tape import Tape
from extract.source.tables import SERIES_TABLES
from harness import raw_tables
from harness.dbt_project import Project

FIRST_LOAD, SECOND_LOAD, LATE_LOAD, UNFINISHED_LOAD = (f"176900000{n}.5" for n in range(4))
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
EIGHT_MS = 1_767_945_600_000
"""2026-01-09 08:00 UTC, an expiry."""
STREAMS = (("BTC", "future"), ("BTC", "option"), ("ETH", "future"))
"""Few streams, because an export has a file for each and month."""
Row = dict[str, Any]
Key = tuple[str, int]


@dataclass
class Market:
    """`trades`: what is loaded, as raw rows. `missing` and `absent` are the trades of the tape that are not."""

    dbt: Project
    trades: list[Row]
    missing: Row
    absent: Row
    late: list[Row] = field(default_factory=list)

    def load(self, load_id: str, trades: list[Row], *, status: int = 0) -> None:
        """Load one package, and refresh the models if it is finished."""
        raw_tables.load(self.dbt.client, load_id, trades, status=status)
        if status == 0:
            refresh(self.database, [load_id])
            self.trades += trades

    @property
    def database(self) -> Database:
        """The connection of the project, with aware times."""
        return shared_database(clickhouse_settings("local"))

    @property
    def keys(self) -> set[Key]:
        return {key_of(trade) for trade in self.trades}


def key_of(trade: Row) -> Key:
    return trade["instrument_name"], trade["trade_seq"]


@pytest.fixture(scope="module")
def market(dbt: Project) -> Iterator[Market]:
    """3,000 trades over 40 days until 2026-01-16, one of which is missing and one absent, and rows of each series."""
    dbt.empty()
    for table in SERIES_TABLES:
        raw_tables.create_raw_table(dbt.client, table)
    dbt.run("--select", "path:models/staging/series")
    everything = [
        trade
        for trade in raw_tables.raw_trades(Tape.generate(seed=4, trades=5_000, days=40))
        if (trade["currency"], trade["kind"]) in STREAMS
    ]
    perpetual = [trade for trade in everything if trade["instrument_name"] == "BTC-PERPETUAL"]
    missing, absent = perpetual[len(perpetual) // 3], perpetual[len(perpetual) // 2]
    loaded = [trade for trade in everything if trade not in (missing, absent)]
    built = Market(dbt, [], missing, absent)
    _load_coverage(built, everything)
    half = len(loaded) // 2
    built.load(FIRST_LOAD, loaded[:half])
    built.load(SECOND_LOAD, loaded[half:])
    for table, rows in series_rows().items():
        loaded_rows = [{**row, "_dlt_load_id": SECOND_LOAD, "_dlt_id": "x"} for row in rows]
        raw_tables.insert_rows(dbt.client, table, loaded_rows)
    yield built
    for table in SERIES_TABLES:
        dbt.client.command(f"drop table deribit_raw.{table} sync")


def _load_coverage(market: Market, trades: list[Row]) -> None:
    client = market.dbt.client
    raw_tables.cover_everything(
        client,
        *sorted({trade["kind"] for trade in trades}),
        currencies=sorted({trade["currency"] for trade in trades}),
    )
    name, seq = key_of(market.absent)
    rows = [
        {
            "instrument_name": name, "first_seq": seq, "last_seq": seq, "currency": "BTC", "kind": "future",
            "found_at": f"{1_768_600_000 + hours * 3600}.000", "_dlt_load_id": FIRST_LOAD, "_dlt_id": "x",
        }
        for hours in (0, 2)
    ]  # fmt: skip
    raw_tables.insert_rows(client, "absent_trades", rows)


def series_rows() -> dict[str, list[Row]]:
    """Some rows of each series, by table."""
    hours = range(-48, 48)
    return {
        "funding_rates": [
            {
                "instrument_name": name, "timestamp": EIGHT_MS + hour * HOUR_MS, "index_price": 90_000.5 + hour,
                "prev_index_price": 90_000.25, "interest_1h": hour * 1.25e-6, "interest_8h": 1e-5,
            }
            for name in ("BTC-PERPETUAL", "ETH-PERPETUAL")
            for hour in hours
        ],
        "delivery_prices": [
            {"index_name": index, "date": f"2026-01-{day:02}", "delivery_price": price + day}
            for index, price in (("btc_usd", 90_000.12), ("eth_usd", 3_100.34))
            for day in range(5, 14)
        ],
        "settlements": [
            {
                "currency": "BTC", "type": "settlement", "timestamp": EIGHT_MS + day * DAY_MS,
                "instrument_name": "BTC-PERPETUAL", "index_price": 90_001.5, "mark_price": 90_010.5,
                "position": 123_456_780.0 + day, "profit_loss": -0.25,
            }
            for day in range(-3, 4)
        ],
        "volatility_index": [
            {
                "currency": currency, "resolution": "3600", "timestamp": EIGHT_MS + hour * HOUR_MS,
                "open": 50.0, "high": 52.5, "low": 49.25, "close": 51.0 + hour / 100,
            }
            for currency in ("BTC", "ETH")
            for hour in hours
        ],
    }  # fmt: skip
