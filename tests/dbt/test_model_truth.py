"""Trades and candles equal a computation from scratch, whatever order, repetition or restatement of load packages."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from extract.clickhouse.refresh import refresh
from harness import raw_tables
from harness.dbt_project import TABLES, Project, failures
from tests.support.candle_truth import Trade, assert_true

KEPT_FRESH = (
    *("trade_versions", "ohlcv_1m_versions", "ohlcv_1h_versions"),
    *("loaded_seqs", "instrument_ends", "moved_trades", "consumed_loads"),
    "expiry_hours_versions",
)
STORED = ("1m", "1h")
"""Levels with a table; the others are views over them."""
SECOND_MS = 1_000
DAY_MS = 86_400 * SECOND_MS
NOON_MS = 1_735_732_799_000  # 2025-01-01 11:59:59, a Wednesday
_ids = itertools.count(1)


def trade(name: str = "BTC-PERPETUAL", seq: int = 1, at_ms: int = NOON_MS, **fields: Any) -> Trade:
    """A trade as the exchange sends it; `kind` follows from the name."""
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


MOVES_MS = {"MOVED0": 0, "MOVED1": 61 * SECOND_MS, "MOVED2": -3 * DAY_MS, "MOVED3": 45 * DAY_MS}
TWICE = [trade(seq=seq, at_ms=NOON_MS + seq * 20_000) for seq in range(1, 8)]
LOADS: dict[str, list[Trade]] = {
    # In load order, each followed by a refresh.
    "1764000003.5": [
        *TWICE,
        *(trade("DAILY-PERPETUAL", seq, NOON_MS + (seq - 410) * DAY_MS) for seq in range(1, 410)),
        *(trade(f"{name}-PERPETUAL", 1, amount=20.0) for name in MOVES_MS),
        *(trade(f"{name}-PERPETUAL", 2, NOON_MS + 9 * DAY_MS) for name in MOVES_MS),
        trade("OLDER-PERPETUAL", price=2.0),
        trade("BTC-31JAN25-90000-C", price=0.05, iv=50.0),
        trade("BTC-31JAN25-90000-P", price=0.03, iv=60.0),
        trade("BTC-31JAN25", 1, NOON_MS + 3_600_000),
    ],
    "1764000001.25": [
        *TWICE,
        trade("DAILY-PERPETUAL", 0, NOON_MS - 400 * DAY_MS, price=1.0),
        trade("OLDER-PERPETUAL", at_ms=NOON_MS - 40 * DAY_MS, price=1.0),
        trade("OLDER-PERPETUAL", seq=2),
        trade("BTC-31JAN25-90000-C", seq=2, at_ms=NOON_MS - 40 * DAY_MS, price=0.06),
    ],
    "1764000004.125": [
        *TWICE,
        *(
            trade(f"{name}-PERPETUAL", 1, NOON_MS + ms, price=5.0, liquidation="M")
            for name, ms in MOVES_MS.items()
        ),
        trade("BTC-31JAN25", 1, NOON_MS + 2 * 3_600_000, price=94_000.0),
    ],
}


@pytest.fixture(scope="module")
def built(dbt: Project) -> Project:
    """All of LOADS, refreshed after each by the loader, and a package that was never finished."""
    dbt.empty()
    for load_id, trades in LOADS.items():
        raw_tables.load(dbt.client, load_id, trades)
        refresh(dbt.database, [load_id])
    raw_tables.load(dbt.client, "1764000005.5", [trade(seq=1000)], status=1)
    refresh(dbt.database)
    return dbt


def test_models_equal_python_computation(built: Project) -> None:
    """A package twice, 400 days late, older after newer; trades restated and moved: all fields and levels."""
    assert_true(built, LOADS)


@pytest.mark.slow
def test_models_are_unchanged_by_merges(built: Project) -> None:
    """The views are exact before and after ClickHouse merges parts."""
    for table in ("trade_versions", *(f"ohlcv_{level}_versions" for level in STORED)):
        built.client.command(f"OPTIMIZE TABLE deribit.{table} FINAL")
    assert_true(built, LOADS)


@pytest.mark.slow
def test_moved_trade_is_not_visible_at_its_old_time(dbt: Project) -> None:
    """After a restatement that moves it to another month, also while parts are unmerged."""
    dbt.empty()
    for load_id, at_ms in {"1764000001.5": NOON_MS, "1764000002.5": NOON_MS + 70 * DAY_MS}.items():
        raw_tables.load(dbt.client, load_id, [trade(at_ms=at_ms)])
        refresh(dbt.database)
    assert dbt.rows("SELECT count() AS n FROM deribit.trades WHERE timestamp < '2025-02-01'") == [{"n": 0}]
    assert dbt.rows("SELECT count() AS n FROM deribit.trades WHERE timestamp > '2025-02-01'") == [{"n": 1}]


def test_late_trade_recomputes_one_bucket_per_level(dbt: Project) -> None:
    """One trade, 400 days late, writes one row per stored level."""
    dbt.empty()
    raw_tables.load(
        dbt.client, "1764000001.5", [trade(seq=n, at_ms=NOON_MS + n * DAY_MS) for n in range(1, 401)]
    )
    refresh(dbt.database)
    raw_tables.load(dbt.client, "1764000002.5", [trade(seq=401, at_ms=NOON_MS + DAY_MS + 1)])
    refresh(dbt.database, ["1764000002.5"])
    written = {
        level: dbt.rows(
            f"SELECT count() AS n FROM deribit.ohlcv_{level}_versions "
            "GROUP BY version ORDER BY version DESC LIMIT 1"
        )[0]["n"]
        for level in STORED
    }
    assert written == dict.fromkeys(STORED, 1)


@pytest.mark.slow
def test_package_recorded_twice_hides_no_pending_one(dbt: Project) -> None:
    """The rows of `consumed_loads` are unmerged, and packages that were never finished are listed as well."""
    dbt.empty()
    dbt.client.command("system stop merges deribit.consumed_loads")
    raw_tables.load(dbt.client, "1764000001.5", [trade()])
    assert refresh(dbt.database) == 1
    dbt.client.command("insert into deribit.consumed_loads select * from deribit.consumed_loads")
    raw_tables.load(dbt.client, "1764000002.5", [trade(seq=2)])
    assert refresh(dbt.database) == 1
    dbt.client.command("system start merges deribit.consumed_loads")
    assert dbt.rows("SELECT count() AS n FROM deribit.trades") == [{"n": 2}]


@pytest.mark.slow
def test_unchanged_database_is_not_written_to(built: Project) -> None:
    """Neither a refresh nor `dbt run` nor `dbt build` inserts a row when no load package is new."""
    for table in KEPT_FRESH:  # a merge that removes older versions would cause one more comparison
        built.client.command(f"OPTIMIZE TABLE deribit.{table} FINAL")
    built.must("build")  # records that the months of the new packages are right
    built.client.command("SYSTEM FLUSH LOGS")
    (before,) = built.rows("SELECT now64(6) AS at")
    assert refresh(built.database) == 0
    built.run()
    built.must("build")
    built.client.command("SYSTEM FLUSH LOGS")
    written = built.rows(
        "SELECT query, written_rows FROM system.query_log WHERE type = 'QueryFinish' AND written_rows > 0 "
        f"AND has(databases, 'deribit') AND event_time_microseconds > '{before['at']}'"
    )
    assert written == []


# Few and many decimal places, none, more than a float can hold, and its extremes.
ODD_NUMBERS = [
    *(0.0, 45.07, 94738.7813, 0.00056176, 0.1 + 0.2, 1 / 3, 12_345_678.12345678, 9_007_199_254_740_993.0),
    *(1e15, 90_071_992.54740991, -12.5, 5e-324, 1.7976931348623157e308),
]


def test_floats_are_stored_losslessly(dbt: Project) -> None:
    """iv, index_price and mark_price are stored as digits and places; the views return the same floats."""
    dbt.empty()
    numbers = ("iv", "index_price", "mark_price")
    odd = [trade(seq=n, **dict.fromkeys(numbers, x)) for n, x in enumerate([*ODD_NUMBERS, None], 1)]
    raw_tables.load(dbt.client, "1764000001.5", odd)
    refresh(dbt.database)
    shown = dbt.rows("SELECT * FROM deribit.trades ORDER BY trade_seq")
    for name in numbers:
        assert [row[name] for row in shown] == [*ODD_NUMBERS, None]
    (candle,) = dbt.rows("SELECT iv_low, iv_high FROM deribit.ohlcv_1m")
    assert candle == {"iv_low": min(ODD_NUMBERS), "iv_high": max(ODD_NUMBERS)}


@pytest.mark.slow
def test_duplicate_in_one_package_has_a_deterministic_winner(dbt: Project) -> None:
    """It should not happen; if it does, the winner does not depend on the order of rows."""
    winners = set()
    records = [trade(price=float(price)) for price in range(1, 6)]
    for turned in (records, records[::-1]):
        dbt.empty()
        raw_tables.load(dbt.client, "1764000001.5", turned)
        refresh(dbt.database)
        winners |= {row["price"] for row in dbt.rows("SELECT price FROM deribit.trades")}
    assert len(winners) == 1


def test_values_out_of_range_stop_nothing(dbt: Project) -> None:
    """They are odd and count as 0, or have no value in dollars; trades and candles of others are right."""
    dbt.empty()
    option = "BTC-27JUN25-100000-C"
    odd = [
        trade(option, 1, price=1e300, iv=50.0),
        trade(option, 2, amount=1e300, iv=50.0),
        trade(option, 3, price=1e12, amount=1e12, iv=50.0),
        trade(option, 4, price=0.05, amount=1.0, index_price=1e300, iv=50.0),
        trade("BTC-27JUN25", 1, price=1e300),
        trade(seq=1, amount=1e300),
    ]
    raw_tables.load(dbt.client, "1764000001.5", odd)
    raw_tables.load(dbt.client, "1764000002.5", [trade("ETH-PERPETUAL")])
    assert refresh(dbt.database) == 2
    rows = dbt.rows("SELECT * FROM deribit.trades ORDER BY ALL")
    assert len(rows) == 7
    missing = {row["trade_seq"]: row["notional_usd_missing"] for row in rows if row["kind"] == "option"}
    assert missing == dict.fromkeys(range(1, 5), "the value is out of range")
    reasons = dbt.rows("SELECT instrument_name, trade_seq FROM deribit.odd_trades ORDER BY ALL")
    assert [tuple(row.values()) for row in reasons] == [
        ("BTC-27JUN25", 1),
        (option, 1),
        (option, 2),
        ("BTC-PERPETUAL", 1),
    ]
    candles = dbt.rows("SELECT * FROM deribit.ohlcv_1h ORDER BY instrument_name")
    assert [row["close"] for row in candles if row["instrument_name"] == "ETH-PERPETUAL"] == [93_500.5]


@pytest.mark.slow
def test_odd_trades_are_exact_and_sound(dbt: Project) -> None:
    """Values near the limit of integers, a negative price, two kinds in one minute, the number 0, odd names."""
    dbt.empty()
    option = {"price": 100_000.0, "amount": 990_000.0, "index_price": 9_900_000.0, "iv": 50.0}
    rows = [
        trade("BTC-27JUN25-100000-C", **option),
        *(trade(seq=seq, at_ms=NOON_MS + seq * DAY_MS, price=-5.0, block_trade_id="B") for seq in (1, 2)),
        trade("ETH-PERPETUAL", 1, NOON_MS, kind="future"),
        trade("ETH-PERPETUAL", 2, NOON_MS - 5, kind="index_option"),
        *(trade("SOL_USDC", seq) for seq in (0, 1, 2, 4)),
        *(trade(f"{pair}-27JUN2025", price=90_000.0, block_trade_id="B") for pair in ("BTC", "BTC_USDC")),
    ]
    raw_tables.load(dbt.client, "1764000001.5", rows)
    refresh(dbt.database)
    assert_true(dbt, {"1764000001.5": rows})
    gaps = dbt.rows("select instrument_name, first_missing_seq, last_missing_seq from deribit.trade_gaps")
    assert gaps == [{"instrument_name": "SOL_USDC", "first_missing_seq": 3, "last_missing_seq": 3}]
    dbt.run(*TABLES)
    assert not failures(dbt.invoke("test", "--select", "test_name:candles_are_sound"))


def test_last_trade_of_a_millisecond_is_the_one_with_the_greatest_number(dbt: Project) -> None:
    """Also where the number is a multiple of a power of two; in the forward as in the candle."""
    dbt.empty()
    rows = [trade("BTC-31JAN25", 2**22 + n, price=90_000.0 + n) for n in (-1, 0)]
    raw_tables.load(dbt.client, "1764000001.5", rows)
    refresh(dbt.database)
    assert dbt.rows("SELECT close FROM deribit.ohlcv_1h") == [{"close": 90_000.0}]
    assert dbt.rows("SELECT forward FROM deribit.forwards_1h") == [{"forward": 90_000.0}]
