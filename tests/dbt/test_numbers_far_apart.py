"""Trades of one minute whose numbers are far apart, as after an odd number of the exchange."""

from __future__ import annotations

from typing import Any

import pytest

from extract.clickhouse.refresh import refresh
from harness import raw_tables
from harness.dbt_project import Project
from tests.dbt.test_model_truth import NOON_MS, trade
from tests.support.candle_truth import Trade, assert_true, newest_trades

NAMES = ("BTC-31JAN25", "BTC-31JAN25-90000-C", "BTC-31JAN25-90000-P", "BTC-PERPETUAL")
HOUR_MS = 3_600_000
FAR = 5 * 10**12
MEMORY_BYTES = 200 * 2**20


def trades(*seqs: int, at_ms: int = NOON_MS, price: float = 0.05) -> list[Trade]:
    """Trades of each instrument, one for each number, some milliseconds apart."""
    return [
        trade(name, seq, at_ms + n, price=price + n if "-C" not in name else price + n / 100, iv=50.0)
        for name in NAMES
        for n, seq in enumerate(seqs)
    ]


LOADS = {
    "1764000001.5": trades(1, 2, FAR),
    "1764000002.5": trades(3, at_ms=NOON_MS - 20),
    "1764000003.5": trades(FAR // 2, 2**62, 7 * 10**9, at_ms=NOON_MS + 20, price=0.07),
    # Other minutes of the hour, and of another one.
    "1764000004.5": trades(4, at_ms=NOON_MS - 300_000, price=0.02),
    "1764000005.5": trades(5, at_ms=NOON_MS + HOUR_MS, price=0.03),
    "1764000006.5": trades(FAR // 2, at_ms=NOON_MS + 40, price=0.08),
}


def assert_models(dbt: Project, loads: dict[str, list[Trade]]) -> None:
    """Trades, candles, forwards, and first and last trades as computed in Python."""
    assert_true(dbt, loads)
    truth: dict[str, list[Trade]] = {}
    for each in newest_trades(loads):
        truth.setdefault(each["instrument_name"], []).append(each)
    for name, own in truth.items():
        own.sort(key=lambda each: (each["timestamp"], each["trade_seq"]))
        [ends] = dbt.rows(
            "select toUnixTimestamp64Milli(first_at) as first_ms, toUnixTimestamp64Milli(last_at) as last_ms,"
            f" trade_seq, price from deribit.instrument_ends final where instrument_name = '{name}'"
        )
        assert ends == {
            "first_ms": own[0]["timestamp"],
            "last_ms": own[-1]["timestamp"],
            "trade_seq": own[-1]["trade_seq"],
            "price": own[-1]["price"],
        }


def now(dbt: Project) -> str:
    return str(dbt.client.command("select toString(now64(6))"))


def inserts_since(dbt: Project, moment: str) -> dict[str, Any]:
    """Number of inserts into tables of the models that have ended since, and the greatest memory and rows read of one."""
    dbt.client.command("system flush logs")
    [inserts] = dbt.rows(
        "select count() as n, max(memory_usage) as memory, max(read_rows) as read_rows from system.query_log"
        " where type != 'QueryStart' and match(query, '(?i)^\\s*(/[*].*[*]/)?\\s*insert into `?deribit`?[.]')"
        f" and event_time_microseconds > '{moment}'"
    )
    return inserts


def assert_little_memory(dbt: Project, moment: str) -> None:
    inserts = inserts_since(dbt, moment)
    assert inserts["n"] > 10
    assert inserts["memory"] < MEMORY_BYTES


@pytest.mark.slow(minutes=1)
def test_loader_refreshes_numbers_that_are_far_apart(dbt: Project) -> None:
    """In one package, and added later to a minute, an hour or the last trades that have such numbers."""
    dbt.empty()
    loads = {}
    moment = now(dbt)
    for load_id, rows in LOADS.items():
        loads[load_id] = rows
        raw_tables.load(dbt.client, load_id, rows)
        assert refresh(dbt.database, [load_id]) == 1
        assert_models(dbt, loads)
    assert_little_memory(dbt, moment)


@pytest.mark.slow(minutes=1)
def test_build_refreshes_and_mends_numbers_that_are_far_apart(dbt: Project) -> None:
    """One package is refreshed by the loader before, the others are pending; then first and last trades are lost."""
    dbt.empty()
    for load_id, rows in LOADS.items():
        raw_tables.load(dbt.client, load_id, rows)
        if load_id == min(LOADS):
            refresh(dbt.database)
    moment = now(dbt)
    dbt.must("build")
    assert_models(dbt, LOADS)
    for table in ("instrument_ends", "ohlcv_1m_versions", "expiry_hours_versions"):
        dbt.client.command(f"truncate table deribit.{table}")
    dbt.must("build")
    assert_models(dbt, LOADS)
    assert_little_memory(dbt, moment)


def test_ordinary_numbers_are_read_by_the_sort_key(dbt: Project) -> None:
    """A new trade of an instrument with sixteen granules of trades in its month reads the first, the last and few others."""
    dbt.empty()
    rows = 16 * 8192
    raw_tables.load(
        dbt.client,
        "1764000001.5",
        (trade("BTC-31JAN25-90000-C", n + 1, NOON_MS + n * 15_000, iv=50.0) for n in range(rows)),
    )
    refresh(dbt.database)
    raw_tables.load(
        dbt.client, "1764000002.5", [trade("BTC-31JAN25-90000-C", rows + 1, NOON_MS + rows * 15_000, iv=50.0)]
    )
    moment = now(dbt)
    refresh(dbt.database)
    inserts = inserts_since(dbt, moment)
    assert inserts["n"] > 10
    assert inserts["read_rows"] < rows / 2
