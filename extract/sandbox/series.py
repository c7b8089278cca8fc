"""Series of the sandbox besides trades, derived from its trades: the same values from the same tape.

Delivery prices are means of the trades' index prices, funding rates follow the perpetual's basis, the volatility index
follows the iv of option trades, and every expired instrument of the tape is delivered.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from datetime import UTC, datetime
from math import fsum
from typing import Any, TypeVar
from zlib import crc32

from extract.sandbox.instrument_names import DAY_MS, HOUR_MS, parse
from extract.sandbox.tape import Record
from extract.sandbox.trade_index import ExchangeData, Row, has_expired

DELIVERY_MS = 8 * HOUR_MS
AVERAGED_MS = 30 * 60_000
SAMPLE_MS = 4_000
"""A delivery price is the mean of the index, sampled every 4 s over 30 minutes."""
MAX_PREMIUM = 0.005
DVOL_CURRENCIES = ("BTC", "ETH")
DVOL_WEIGHT = 0.02
"""Weight of a trade's iv in the volatility index."""

Point = tuple[int, float]
T = TypeVar("T")


class SeriesData:
    """Series of an exchange, computed when they are first requested; `changes` are restated and removed rows."""

    def __init__(self, data: ExchangeData) -> None:
        self._data = data
        self._cache: dict[tuple[Any, ...], Any] = {}
        self._version = data.version
        self._changes: dict[tuple[str, str], dict[Any, Record | None]] = {}

    def restate(self, series: str, key: str, time: Any, changes: Record | None) -> None:
        """Change fields of the row of `series` and `key` at a time or date; None removes the row."""
        self._changes.setdefault((series, key), {})[time] = changes

    def _cached(self, key: tuple[Any, ...], compute: Callable[[], T]) -> T:
        if self._version != self._data.version:
            self._cache.clear()
            self._version = self._data.version
        if key not in self._cache:
            self._cache[key] = compute()
        result: T = self._cache[key]
        return result

    def _with_changes(self, series: str, key: str, rows: list[Record], time: str) -> list[Record]:
        changes = self._changes.get((series, key))
        if not changes:
            return rows
        changed = ((row, changes.get(row[time], {})) for row in rows)
        return [row | change for row, change in changed if change is not None]

    # Index

    @property
    def index_names(self) -> list[str]:
        """Names of all indexes to which an instrument refers."""
        return sorted(self._by_index())

    def _by_index(self) -> dict[str, list[str]]:
        def compute() -> dict[str, list[str]]:
            names: dict[str, list[str]] = {}
            for name, entry in self._data.instruments.items():
                if "price_index" in entry:
                    names.setdefault(entry["price_index"], []).append(name)
            return names

        return self._cached(("indexes",), compute)

    def _index_points(self, index_name: str) -> list[Point]:
        """(time, index price) of the trades of an index, ascending."""

        def compute() -> list[Point]:
            rows = (row for name in self._by_index().get(index_name, []) for row in self._trades(name))
            return sorted(
                (row.stamp_ms, float(row.record["index_price"]))
                for row in rows
                if row.record.get("index_price")
            )

        return self._cached(("index", index_name), compute)

    def index_at(self, index_name: str, at_ms: int) -> float | None:
        """The index price of the last trade until `at_ms`, else of the first one."""
        points = self._index_points(index_name)
        place = bisect_right(points, (at_ms, float("inf")))
        return points[max(place - 1, 0)][1] if points else None

    def _trades(self, name: str) -> list[Row]:
        return self._data.instrument(name).rows

    # Delivery prices

    def delivery_prices(self, index_name: str, now_ms: int) -> list[Record]:
        """One row per day since the first trade, newest first."""
        points = self._index_points(index_name)
        if not points:
            return []
        first = -(-(points[0][0] - DELIVERY_MS) // DAY_MS)
        last = (now_ms - DELIVERY_MS) // DAY_MS
        rows = [
            {
                "date": _date(day),
                "delivery_price": self.delivery_price(index_name, day * DAY_MS + DELIVERY_MS),
            }
            for day in range(last, first - 1, -1)
        ]
        return self._with_changes("delivery_prices", index_name, rows, "date")

    def delivery_price(self, index_name: str, at_ms: int) -> float:
        """Mean of the index over the 30 minutes before `at_ms`."""

        def compute() -> float:
            samples = [
                self.index_at(index_name, each) or 0.0
                for each in range(at_ms - AVERAGED_MS, at_ms, SAMPLE_MS)
            ]
            return round(fsum(samples) / len(samples), 4)

        return self._cached(("delivery", index_name, at_ms), compute)

    def currency_of(self, name: str) -> str | None:
        """The currency by which an instrument is listed; None for an unknown one."""
        return parse(name).currency if name in self._data.instruments else None

    # Funding

    def is_perpetual(self, name: str) -> bool:
        entry = self._data.instruments.get(name)
        return bool(entry and entry.get("settlement_period") == "perpetual")

    def funding_rates(self, name: str, now_ms: int) -> list[Record]:
        """One row per full hour since the perpetual's first trade, ascending."""
        last = now_ms // HOUR_MS
        rows = self._cached(("funding", name, last), lambda: self._funding_rates(name, last))
        return self._with_changes("funding_rates", name, rows, "timestamp")

    def _funding_rates(self, name: str, last: int) -> list[Record]:
        trades = self._trades(name)
        if not trades:
            return []
        index_name = self._data.instruments[name]["price_index"]
        premiums: dict[int, list[float]] = {}
        for row in trades:
            index = row.record.get("index_price")
            price = row.record.get("mark_price") or row.record["price"]
            if index:
                premiums.setdefault(-(-row.stamp_ms // HOUR_MS), []).append(price / index - 1.0)
        first = -(-min(row.stamp_ms for row in trades) // HOUR_MS)
        rows: list[Record] = []
        for hour in range(first, last + 1):
            each = premiums.get(hour, [0.0])
            premium = min(max(fsum(each) / len(each), -MAX_PREMIUM), MAX_PREMIUM)
            interest_1h = round(premium / 8.0, 15)
            previous = [row["interest_1h"] for row in rows[-7:]]
            rows.append(
                {
                    "timestamp": hour * HOUR_MS,
                    "index_price": self.index_at(index_name, hour * HOUR_MS),
                    "prev_index_price": self.index_at(index_name, (hour - 1) * HOUR_MS),
                    "interest_1h": interest_1h,
                    "interest_8h": round(fsum([*previous, interest_1h]), 15),
                }
            )
        return rows

    # Volatility index

    def volatility_index(self, currency: str, step_ms: int, now_ms: int) -> list[list[float]]:
        """Candles [start, open, high, low, close] since the first option trade, ascending; the last one is open."""
        if currency not in DVOL_CURRENCIES:
            return []
        points = self._dvol_points(currency)
        points = points[: bisect_right(points, (now_ms, float("inf")))]
        last = now_ms // step_ms
        key = ("candles", currency, step_ms, last, len(points))
        rows = self._cached(key, lambda: _candles(points, step_ms, last))
        return [
            [row["timestamp"], row["open"], row["high"], row["low"], row["close"]]
            for row in self._with_changes("volatility_index", currency, rows, "timestamp")
        ]

    def _dvol_points(self, currency: str) -> list[Point]:
        def compute() -> list[Point]:
            ivs = sorted(
                (row.stamp_ms, row.number, row.record["iv"])
                for name in self._data.names(currency)
                if self._data.instruments[name]["kind"] == "option"
                for row in self._trades(name)
                if row.record.get("iv")
            )
            points: list[Point] = []
            value = ivs[0][2] if ivs else 0.0
            for at_ms, _, iv in ivs:
                value += DVOL_WEIGHT * (iv - value)
                points.append((at_ms, round(value, 4)))
            return points

        return self._cached(("dvol", currency), compute)

    # Settlements

    def settlements(self, currency: str, now_ms: int) -> list[Record]:
        """Deliveries, daily settlements and bankruptcies, newest first."""
        key = ("settlements", currency, now_ms // 60_000)
        rows = self._cached(key, lambda: self._settlements(currency, now_ms))
        return self._with_changes("settlements", currency, rows, "timestamp")

    def _settlements(self, currency: str, now_ms: int) -> list[Record]:
        rows: list[Record] = []
        for name in self._data.names(currency):
            entry = self._data.instruments[name]
            trades = self._trades(name)
            if entry["kind"] in ("future", "option") and trades:
                rows += self._daily(name, entry, now_ms) if entry["kind"] == "future" else []
                if has_expired(entry, now_ms):
                    rows.append(self._delivery(name, entry))
        rows += self._bankruptcies(currency, now_ms)
        return sorted(
            (row for row in rows if row["timestamp"] <= now_ms),
            key=lambda row: (-row["timestamp"], row["type"], row.get("instrument_name", "")),
        )

    def _delivery(self, name: str, entry: Record) -> Record:
        """The delivery of an expired future or option at the delivery price of its index."""
        expiry_ms = entry["expiration_timestamp"]
        price = self.delivery_price(entry["price_index"], expiry_ms)
        parts = parse(name)
        mark = price
        if entry["kind"] == "option":
            strike = parts.strike or price
            payoff = max(price - strike if parts.option_type == "call" else strike - price, 0.0)
            mark = payoff if parts.linear else payoff / price
        position = self._position(name, expiry_ms)
        return {
            "type": "delivery",
            "timestamp": expiry_ms + crc32(name.encode()) % 40,
            "instrument_name": name,
            "index_price": price,
            "mark_price": round(mark, 8),
            "position": position,
            "profit_loss": round(-mark * position, 8),
            "session_profit_loss": round(mark * position, 8),
        }

    def _daily(self, name: str, entry: Record, now_ms: int) -> list[Record]:
        """Settlements of a future or perpetual at 08:00 UTC of each day of its life."""
        trades = self._trades(name)
        first = -(-(min(row.stamp_ms for row in trades) - DELIVERY_MS) // DAY_MS)
        end_ms = min(now_ms, entry.get("expiration_timestamp", now_ms) - 1)
        rates = self.funding_rates(name, now_ms) if self.is_perpetual(name) else []
        index_name = entry["price_index"]
        rows = []
        for day in range(first, (end_ms - DELIVERY_MS) // DAY_MS + 1):
            at_ms = day * DAY_MS + DELIVERY_MS
            index = self.index_at(index_name, at_ms) or 0.0
            position = self._position(name, at_ms)
            row: Record = {
                "type": "settlement",
                "timestamp": at_ms + crc32(f"{name} {day}".encode()) % 40,
                "instrument_name": name,
                "index_price": index,
                "mark_price": index,
                "position": position,
                "profit_loss": 0.0,
                "session_profit_loss": round(position * 1e-6, 8),
            }
            if rates:
                charged = [r["interest_1h"] for r in rates if at_ms - DAY_MS < r["timestamp"] <= at_ms]
                row["funding"] = round(-fsum(charged) * position / index, 8)
            rows.append(row)
        return rows

    def _bankruptcies(self, currency: str, now_ms: int) -> list[Record]:
        """One per day with a liquidation, without an instrument, as the exchange reports them."""
        first: dict[int, Row] = {}
        for name in self._data.names(currency):
            for row in self._trades(name):
                if row.record.get("liquidation"):
                    day = row.stamp_ms // DAY_MS
                    if day not in first or row.stamp_ms < first[day].stamp_ms:
                        first[day] = row
        return [
            {
                "type": "bankruptcy",
                "timestamp": row.stamp_ms,
                "session_bankruptcy": round(row.record["amount"] * 1e-6, 9),
                "session_profit_loss": 0.0,
                "session_tax": 0.0,
                "session_tax_rate": 0.0,
                "socialized": 0.0,
                "funded": 0.0,
            }
            for row in first.values()
            if row.stamp_ms <= now_ms
        ]

    def _position(self, name: str, at_ms: int) -> float:
        """Open interest: half of all amounts traded until then."""
        amounts = [row.record["amount"] for row in self._trades(name) if row.stamp_ms <= at_ms]
        return round(fsum(amounts) / 2.0, 4)

    # Book summaries

    def book_summaries(self, currency: str, now_ms: int) -> list[Record]:
        """One row for each live instrument."""
        names = (
            name
            for name in self._data.names(currency)
            if self._data.instruments[name]["creation_timestamp"] <= now_ms
            and not has_expired(self._data.instruments[name], now_ms)
        )
        return [self._book_summary(name, now_ms) for name in names]

    def _book_summary(self, name: str, now_ms: int) -> Record:
        entry = self._data.instruments[name]
        trades = [row.record for row in self._trades(name) if row.stamp_ms <= now_ms]
        day = [trade for trade in trades if trade["timestamp"] > now_ms - DAY_MS]
        last = trades[-1] if trades else {}
        price, tick = last.get("price"), entry["tick_size"]
        row: Record = {
            "instrument_name": name,
            "base_currency": entry["base_currency"],
            "quote_currency": entry["quote_currency"],
            "high": max((trade["price"] for trade in day), default=None),
            "low": min((trade["price"] for trade in day), default=None),
            "volume": fsum(trade["amount"] for trade in day),
            "bid_price": None if price is None else round(price - tick, 8),
            "ask_price": None if price is None else round(price + tick, 8),
            "mid_price": price,
            "mark_price": last.get("mark_price") or price or 0.0,
            "last": price,
            "open_interest": self._position(name, now_ms),
            "creation_timestamp": now_ms,
        }
        if entry["kind"] == "option":
            row |= {
                "mark_iv": last.get("iv", 0.0),
                "underlying_price": last.get("index_price"),
                "underlying_index": "index_price",
                "interest_rate": 0.0,
            }
        if self.is_perpetual(name) and (rates := self.funding_rates(name, now_ms)):
            row |= {"current_funding": rates[-1]["interest_1h"], "funding_8h": rates[-1]["interest_8h"]}
        return row


def _candles(points: list[Point], step_ms: int, last: int) -> list[Record]:
    """Candles of all steps from the first point to `last`; a step opens at the close of the one before."""
    if not points:
        return []
    inside: dict[int, list[float]] = {}
    for at_ms, value in points:
        inside.setdefault(at_ms // step_ms, []).append(value)
    close = points[0][1]
    rows: list[Record] = []
    for step in range(points[0][0] // step_ms, last + 1):
        values = [close, *inside.get(step, [])]
        close = values[-1]
        prices = {"open": values[0], "high": max(values), "low": min(values), "close": close}
        rows.append({"timestamp": step * step_ms, **prices})
    return rows


def _date(day: int) -> str:
    return datetime.fromtimestamp(day * 86_400, UTC).date().isoformat()
