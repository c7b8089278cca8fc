"""Instruments, current prices, index prices and gaps on one small tape."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

import pytest

from extract.clickhouse.refresh import refresh
from harness import raw_tables
from harness.dbt_project import Project
from tests.dbt.test_model_truth import DAY_MS, NOON_MS, trade

HOUR_MS = 3_600_000
OPTION, EXPIRED, COMBO = "BTC-31JAN25-90000-C", "BTC-30DEC24-90000-C", "BTC-FS-31JAN25_PERP"


@pytest.fixture(scope="module")
def small(dbt: Project) -> Project:
    """A perpetual with gaps, a live and an expired option, a combo, and listed instruments without trades."""
    dbt.empty()
    listed = {"kind": "option", "base_currency": "BTC", "settlement_period": "month", "option_type": "put"}
    raw_tables.insert_rows(
        dbt.client,
        "instruments",
        [
            {
                **listed,
                "instrument_name": "BTC-31JAN25-1-P",
                "tick_size": 0.1,
                "_dlt_load_id": "1764000001.5",
            },
            {
                **listed,
                "instrument_name": "BTC-31JAN25-1-P",
                "tick_size": 0.5,
                "_dlt_load_id": "1764000002.5",
            },
            {
                **listed,
                "instrument_name": "BTC-31JAN25-1-P",
                "tick_size": 0.9,
                "_dlt_load_id": "1764000003.5",
            },
            {
                "instrument_name": "BTC-PERPETUAL",
                "kind": "future",
                "settlement_period": "perpetual",
                "expiration_timestamp": 7258118400000,  # the last year of DateTime64; the exchange lists the year 3000
                "_dlt_load_id": "1764000001.5",
            },
        ],
    )
    rows = [
        trade(seq=4, at_ms=NOON_MS - 30 * HOUR_MS, price=50.0),
        trade(seq=5, at_ms=NOON_MS - 20 * HOUR_MS, price=100.0, index_price=99.0),
        trade(seq=8, at_ms=NOON_MS - 20 * HOUR_MS + 1, price=90.0, index_price=101.0),
        trade(seq=9, at_ms=NOON_MS, price=110.0, index_price=100.0, mark_price=None),
        trade(OPTION, 1, NOON_MS - 9 * DAY_MS, price=0.05, iv=55.5, index_price=98.0),
        trade(EXPIRED, 2, NOON_MS - 3 * DAY_MS, price=0.01, iv=50.0),
        {**trade(COMBO, 1, NOON_MS - HOUR_MS, price=-7.0, index_price=5.0), "kind": "future_combo"},
    ]
    raw_tables.load(dbt.client, "1764000001.5", rows)
    raw_tables.load(dbt.client, "1764000002.5", [])
    raw_tables.load(dbt.client, "1764000003.5", [], status=1)
    refresh(dbt.database)
    return dbt


def test_gaps_are_heads_and_inner_ranges(small: Project) -> None:
    """Every missing trade_seq up to the newest loaded one, as ranges."""
    gaps = small.rows("SELECT * FROM deribit.trade_gaps ORDER BY instrument_name, first_missing_seq")
    assert [
        (
            gap["instrument_name"],
            gap["place"],
            gap["first_missing_seq"],
            gap["last_missing_seq"],
            gap["missing"],
        )
        for gap in gaps
    ] == [
        (EXPIRED, "head", 1, 1, 1),
        ("BTC-PERPETUAL", "head", 1, 3, 3),
        ("BTC-PERPETUAL", "inner", 6, 7, 2),
    ]
    assert gaps[1]["after_at"] is None
    assert gaps[2]["after_at"] < gaps[2]["before_at"]


def test_current_prices_omit_expired_instruments(small: Project) -> None:
    """The last trade including nulls, and the 24 hours before the newest trade."""
    rows = {row["instrument_name"]: row for row in small.rows("SELECT * FROM deribit.current_prices")}
    assert rows.keys() == {"BTC-PERPETUAL", OPTION, COMBO}
    perpetual = rows["BTC-PERPETUAL"]
    assert (perpetual["price"], perpetual["mark_price"], perpetual["index_price"]) == (110.0, None, 100.0)
    assert (perpetual["high_24h"], perpetual["low_24h"], perpetual["trades_24h"]) == (110.0, 90.0, 3)
    assert perpetual["change_24h"] == pytest.approx(0.1)
    assert perpetual["notional_24h"] == Decimal(30)
    assert (rows[OPTION]["price"], rows[OPTION]["iv"], rows[OPTION]["trades_24h"]) == (0.05, 55.5, 0)
    assert rows[OPTION]["high_24h"] is rows[OPTION]["change_24h"] is None
    assert (rows[COMBO]["price"], rows[COMBO]["trades_24h"], rows[COMBO]["volume_24h"]) == (-7.0, 1, None)


def test_index_prices_come_from_trades(small: Project) -> None:
    """Inverse futures and options have the same index; combos are excluded."""
    rows = small.rows("SELECT * FROM deribit.index_prices_1m WHERE bucket_at >= '2024-12-31 15:00:00'")
    assert [list(row.values()) for row in sorted(rows, key=lambda row: row["bucket_at"])] == [
        ["BTC", "USD", datetime(2024, 12, 31, 15, 59), 99.0, 101.0, 99.0, 101.0, 2],
        ["BTC", "USD", datetime(2025, 1, 1, 11, 59), 100.0, 100.0, 100.0, 100.0, 1],
    ]


def test_instruments_are_listed_or_traded(small: Project) -> None:
    """The newest finished listing wins; unlisted ones have values from their name; perpetuals have no expiry."""
    rows = {row["instrument_name"]: row for row in small.rows("SELECT * FROM deribit.instruments")}
    assert rows.keys() == {"BTC-31JAN25-1-P", "BTC-PERPETUAL", OPTION, EXPIRED, COMBO}
    untraded, perpetual, option = rows["BTC-31JAN25-1-P"], rows["BTC-PERPETUAL"], rows[OPTION]
    assert (untraded["tick_size"], untraded["trade_count"], untraded["first_traded_on"]) == (0.5, 0, None)
    assert (perpetual["expires_at"], perpetual["is_listed"], perpetual["trade_count"]) == (None, True, 4)
    assert (option["kind"], option["strike"], option["option_type"]) == ("option", 90_000.0, "call")
    assert option["expires_at"] == datetime(2025, 1, 31, 8)
    assert not option["is_listed"]
    assert (rows[COMBO]["kind"], rows[COMBO]["underlying"]) == ("future_combo", None)
