"""Trades and candles against a computation from scratch, after all that can happen to load packages."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.dbt import raw
from tests.dbt.project import Project
from tests.dbt.truth import LEVELS, Trade, candles, newest_trades

MINUTE_MS = 60_000
DAY_MS = 24 * 60 * MINUTE_MS
NOW_MS = 1_735_732_799_000  # 2025-01-01 11:59:59, a Wednesday
_ids = itertools.count(1)


def trade(name: str = "BTC-PERPETUAL", seq: int = 1, at_ms: int = NOW_MS, **fields: Any) -> Trade:
    """A trade of the perpetual; `kind` follows from the name."""
    kind = "option" if name[-2:] in ("-C", "-P") else "spot" if "-" not in name else "future"
    return {
        "trade_seq": seq,
        "trade_id": str(next(_ids)),
        "timestamp": at_ms,
        "instrument_name": name,
        "price": 93_500.5,
        "amount": 10.0,
        "direction": "buy",
        "tick_direction": 0,
        "index_price": 93_480.12,
        "mark_price": 93_499.9,
        "currency": "BTC",
        "kind": kind,
        **fields,
    }


def assert_true(dbt: Project, loads: dict[str, list[Trade]]) -> None:
    """Every trade once in its newest version with every field, and every candle of every level to the last digit."""
    truth = newest_trades(loads)
    shown = {
        (row["instrument_name"], row["trade_seq"]): row
        for row in dbt.rows("SELECT *, toUnixTimestamp64Milli(timestamp) AS timestamp FROM deribit.trades")
    }
    assert len(shown) == len(truth) == dbt.rows("SELECT count() AS n FROM deribit.trades")[0]["n"]
    for expected in truth:
        row = shown[expected["instrument_name"], expected["trade_seq"]]
        assert {name: row[name] for name in expected} == expected
    for level in LEVELS:
        assert_candles(dbt, truth, level)


def assert_candles(dbt: Project, truth: list[Trade], level: str) -> None:
    expected, shown = candles(truth, level), dbt.candles(level)
    assert shown.keys() == expected.keys(), level
    for key, candle in expected.items():
        vwap = shown[key].pop("vwap")
        assert shown[key] == candle, (level, key)
        if candle["volume"]:
            assert vwap == pytest.approx(float(candle["notional"]) / float(candle["volume"]), rel=1e-14)


def test_the_same_package_twice_counts_once(fresh_dbt: Project) -> None:
    """A package that comes again under another id, before or after the first was built, changes nothing."""
    trades = [trade(seq=seq, at_ms=NOW_MS + seq * 20_000) for seq in range(1, 8)]
    loads = {"1764000001.5": trades, "1764000002.5": trades}
    for load_id, rows in loads.items():
        raw.load(fresh_dbt.client, load_id, rows)
    fresh_dbt.run()
    raw.load(fresh_dbt.client, "1764000003.5", trades)
    fresh_dbt.run()
    assert_true(fresh_dbt, loads)


def test_a_late_trade_changes_its_buckets_and_no_other(fresh_dbt: Project) -> None:
    """400 days late: the buckets on the way up are recomputed, and not one other row is written."""
    loads = {
        "1764000001.5": [trade(seq=seq, at_ms=NOW_MS - 410 * DAY_MS + seq * DAY_MS) for seq in range(1, 410)],
        "1764000002.5": [trade(seq=0, at_ms=NOW_MS - 400 * DAY_MS, price=1.0)],
    }
    for load_id, rows in loads.items():
        raw.load(fresh_dbt.client, load_id, rows)
        fresh_dbt.run()
    assert_true(fresh_dbt, loads)
    for level in LEVELS:
        (written,) = fresh_dbt.rows(
            f"SELECT countIf(built_at = (SELECT max(built_at) FROM deribit.ohlcv_{level}_versions)) AS n "
            f"FROM deribit.ohlcv_{level}_versions"
        )
        assert written["n"] == 1, level


@pytest.mark.parametrize("moved_ms", [0, 61_000, -3 * DAY_MS, 45 * DAY_MS])
def test_a_restated_trade_replaces_the_old_one_everywhere(fresh_dbt: Project, moved_ms: int) -> None:
    """Other price, and other time: the bucket it left loses it, or vanishes where it was the last."""
    lone, among = trade(name="ETH_USDC-PERPETUAL", price=3_300.5), trade(seq=1)
    loads = {
        "1764000001.5": [lone, among, trade(seq=2, at_ms=NOW_MS + 5)],
        "1764000002.5": [
            {**row, "price": 5.0, "timestamp": row["timestamp"] + moved_ms} for row in (lone, among)
        ],
    }
    for load_id, rows in loads.items():
        raw.load(fresh_dbt.client, load_id, rows)
        fresh_dbt.run()
    assert_true(fresh_dbt, loads)
    for statement in ("trade_versions", *(f"ohlcv_{level}_versions" for level in LEVELS)):
        fresh_dbt.client.command(f"OPTIMIZE TABLE deribit.{statement} FINAL")
    assert_true(fresh_dbt, loads)


def test_an_older_package_that_comes_later_does_not_win(fresh_dbt: Project) -> None:
    """The newest load package wins, not the one that was built last."""
    newer, older = [trade(price=2.0)], [trade(price=1.0, at_ms=NOW_MS - 40 * DAY_MS), trade(seq=2)]
    loads = {"1764000002.5": newer, "1764000001.5": older}
    for load_id, rows in loads.items():
        raw.load(fresh_dbt.client, load_id, rows)
        fresh_dbt.run()
    assert_true(fresh_dbt, loads)


def test_a_package_without_its_end_is_not_read(fresh_dbt: Project) -> None:
    """What the extractor has not finished loading is pending, and read when it is finished."""
    whole = {"1764000001.5": [trade()]}
    raw.load(fresh_dbt.client, "1764000001.5", whole["1764000001.5"])
    raw.load(fresh_dbt.client, "1764000002.5", [trade(seq=2)], status=1)
    fresh_dbt.run()
    assert_true(fresh_dbt, whole)


def test_readers_of_a_time_range_see_one_version(fresh_dbt: Project) -> None:
    """A trade that moved to another month is not seen where it was, unmerged parts or not."""
    raw.load(fresh_dbt.client, "1764000001.5", [trade()])
    fresh_dbt.run()
    raw.load(fresh_dbt.client, "1764000002.5", [trade(at_ms=NOW_MS + 70 * DAY_MS)])
    fresh_dbt.run()
    old_place = "SELECT count() AS n FROM deribit.trades WHERE timestamp < '2025-02-01'"
    assert fresh_dbt.rows(old_place) == [{"n": 0}]
