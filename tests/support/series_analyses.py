"""Hand-made rows of the series besides trades, next to a tape of the sandbox, and what the analyses make of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from extract.source.tables import SERIES_TABLES
from harness import raw_tables

Rows = list[dict[str, Any]]
LOAD_ID = "1764000002.5"
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
DELIVERY_PRICE = 95_250.0
DVOL = (40.0, 60.0, 45.0)
"""Volatility index of BTC on the last three days."""
RATE = 0.00001
OPEN_INTEREST = {"BTC-30JAN26-90000-C": 5.0, "BTC-30JAN26-90000-P": 7.0, "BTC-30JAN26-95000-C": 2.5}


def load_series(client: Client, at_ms: int, expiries_ms: Iterable[int]) -> None:
    """Load funding of the last 30 hours, DVOL, delivery prices of all expiries, and one snapshot of open interest."""
    for table in SERIES_TABLES:
        raw_tables.create_raw_table(client, table)
    hour_ms = at_ms // HOUR_MS * HOUR_MS
    rows: dict[str, Rows] = {
        "funding_rates": [
            {
                "instrument_name": "BTC-PERPETUAL", "timestamp": hour_ms - n * HOUR_MS,
                "interest_1h": RATE, "index_price": 95_000.0,
            }
            for n in range(30)
        ],
        "volatility_index": [
            {
                "currency": "BTC", "resolution": "3600", "timestamp": hour_ms - n * DAY_MS,
                **dict.fromkeys(("open", "high", "low", "close"), value),
            }
            for n, value in enumerate(reversed(DVOL))
        ],
        "delivery_prices": [
            {"index_name": "btc_usd", "date": str(_day(each)), "delivery_price": DELIVERY_PRICE}
            for each in set(expiries_ms)
        ],
        "book_summaries": [
            {"currency": "BTC", "instrument_name": name, "timestamp": at_ms, "open_interest": value}
            for name, value in OPEN_INTEREST.items()
        ],
    }  # fmt: skip
    for table, each in rows.items():
        raw_tables.insert_rows(
            client, table, [{**row, "_dlt_load_id": LOAD_ID, "_dlt_id": ""} for row in each]
        )
    raw_tables.load(client, LOAD_ID, [])


def _day(ms: int) -> date:
    return datetime.fromtimestamp(ms / 1000, UTC).date()


class Market:
    """Option trades of BTC settled in coin, with the parts of their names; `models` queries a model's rows."""

    def __init__(self, options: Rows, at_ms: int, models: Callable[[str], Rows]) -> None:
        self.options, self.at_ms, self.models = options, at_ms, models
        self.at = datetime.fromtimestamp(at_ms / 1000, UTC).replace(tzinfo=None)

    def expired(self) -> dict[Any, Rows]:
        """Trades of the options that have expired by now, which have an outcome, by expiry."""
        now_ms = datetime.now(UTC).timestamp() * 1000
        return grouped([trade for trade in self.options if trade["expiry_ms"] <= now_ms], "expiry_ms")


def grouped(rows: Rows, *names: str) -> dict[Any, Rows]:
    groups: dict[Any, Rows] = defaultdict(list)
    for row in rows:
        groups[tuple(row[name] for name in names)].append(row)
    return groups


def mean(values: Iterable[float | None]) -> Any:
    """Mean of the known values, approximately; null or NaN without any."""
    known = [value for value in values if value is not None]
    return pytest.approx(sum(known) / len(known)) if known else None


def iv_rank(market: Market, rows: Rows) -> None:
    dvol = next(row for row in rows if (row["underlying"], row["source"]) == ("BTC", "dvol"))
    assert (dvol["newest_iv"], dvol["newest_rank"], dvol["newest_percentile"]) == (45.0, 25.0, 50.0)
    assert {row["source"] for row in rows} == {"dvol", "trades"}


def carry(market: Market, rows: Rows) -> None:
    (row,) = rows
    assert (row["instrument_name"], row["hours"]) == ("BTC-PERPETUAL", 30)
    assert row["paid"] == pytest.approx(30 * RATE)
    assert row["paid_annualised"] == pytest.approx(RATE * 24 * 365)
    assert abs(row["basis"]) < 0.1


def pin_at_expiry(market: Market, rows: Rows) -> None:
    by_expiry = market.expired()
    assert [row["expires_at"] for row in rows] == [_time(ms) for (ms,) in sorted(by_expiry)]
    for row, (_, trades) in zip(rows, sorted(by_expiry.items()), strict=True):
        strikes = {trade["strike"] for trade in trades}
        nearest = min(strikes, key=lambda strike: (abs(strike - DELIVERY_PRICE), strike))
        assert (row["delivered"], row["nearest_strike"]) == (DELIVERY_PRICE, nearest)
        assert row["distance"] == pytest.approx(DELIVERY_PRICE / nearest - 1)
        volumes = {
            strike: sum(trade["volume"] for trade in own)
            for (strike,), own in grouped(trades, "strike").items()
        }
        assert row["busiest_strike"] == max(volumes, key=lambda strike: (volumes[strike], strike))


def expiry_results(market: Market, rows: Rows) -> None:
    by_expiry = market.expired()
    for row, (_, trades) in zip(rows, sorted(by_expiry.items()), strict=True):
        options = {(trade["strike"], trade["option_type"]) for trade in trades}
        paid = [strike for strike, kind in options if (strike < DELIVERY_PRICE) == (kind == "call")]
        assert (row["options"], row["paid_options"]) == (len(options), len(paid))
        premium = sum(trade["price"] * trade["amount"] for trade in trades)
        assert float(row["total_premium"]) == pytest.approx(premium)
        result = 0.0
        for trade in trades:
            gain = DELIVERY_PRICE - trade["strike"]
            payoff = max(gain if trade["option_type"] == "call" else -gain, 0.0) / DELIVERY_PRICE
            sign = 1 if trade["direction"] == "buy" else -1
            result += sign * trade["amount"] * (payoff - trade["price"])
        assert float(row["total_taker_result"]) == pytest.approx(result, abs=1e-9)


def open_interest_by_strike(market: Market, rows: Rows) -> None:
    assert [(row["strike"], row["calls"], row["puts"]) for row in rows] == [
        (90_000.0, 5.0, 7.0),
        (95_000.0, 2.5, 0.0),
    ]


def term_structure_history(market: Market, rows: Rows) -> None:
    tenors = _inverse(market.models("iv_tenors_1h"))
    for each in tenors:
        each["day"] = each["bucket_at"].date()
    groups = grouped(tenors, "day", "tenor_days")
    assert [(row["day"], row["tenor_days"]) for row in rows] == sorted(groups)
    for row in rows:
        own = groups[row["day"], row["tenor_days"]]
        assert row["atm_volatility"] == mean(each["atm_iv"] for each in own)
        assert row["hours"] == len(own)


def skew_before_and_after(market: Market, rows: Rows) -> None:
    event = market.at - timedelta(hours=12)
    recent = [
        row
        for row in _inverse(market.models("iv_tenors_1h"))
        if market.at - timedelta(hours=24) <= row["bucket_at"] <= market.at
    ]
    groups = grouped(recent, "tenor_days")
    assert [row["tenor_days"] for row in rows] == [tenor for (tenor,) in sorted(groups)]
    for row in rows:
        own = groups[row["tenor_days"],]
        assert row["before"] == mean(x["risk_reversal_25"] for x in own if x["bucket_at"] < event)
        assert row["after"] == mean(x["risk_reversal_25"] for x in own if x["bucket_at"] >= event)


def futures_curve(market: Market, rows: Rows) -> None:
    hours = [
        row | {"day": row["bucket_at"].date()}
        for row in market.models("futures_basis_1h")
        if row["underlying"] == "BTC"
    ]
    groups = grouped(hours, "day", "tenor_days")
    assert [(row["day"], row["tenor_days"]) for row in rows] == sorted(groups)
    for row in rows:
        own = groups[row["day"], row["tenor_days"]]
        assert row["mean_basis_annualised"] == mean(each["basis_annualised"] for each in own)


def realised_against_implied(market: Market, rows: Rows) -> None:
    assert {row["source"] for row in rows} == {"dvol", "trades"}
    assert [row["iv"] for row in rows if row["source"] == "dvol"] == [*DVOL]
    for row in rows:
        assert row["premium"] == pytest.approx(row["iv"] - row["realised_volatility"])


def greeks_traded(market: Market, rows: Rows) -> None:
    trades = [row for row in market.models("trade_greeks") if row["underlying"] == "BTC"]
    for each in trades:
        each["day"] = each["timestamp"].date()
    groups = grouped(trades, "day")
    assert [row["day"] for row in rows] == [day for (day,) in sorted(groups)]
    for row in rows:
        own = groups[row["day"],]
        assert row["trade_count"] == len(own)
        signed = [(1 if each["direction"] == "buy" else -1, each) for each in own]
        for greek in ("delta", "gamma", "vega", "theta"):
            total = sum(sign * each["amount"] * (each[greek] or 0.0) for sign, each in signed)
            assert row[f"net_{greek}"] == pytest.approx(total), greek


def _inverse(rows: Rows) -> Rows:
    return [row for row in rows if (row["underlying"], row["settlement_currency"]) == ("BTC", "BTC")]


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC).replace(tzinfo=None)


CHECKS = {
    check.__name__: check
    for check in (
        iv_rank, carry, pin_at_expiry, expiry_results, open_interest_by_strike, term_structure_history,
        skew_before_and_after, futures_curve, realised_against_implied, greeks_traded,
    )
}  # fmt: skip
