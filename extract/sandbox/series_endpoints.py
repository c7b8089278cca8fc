"""API methods of the series besides trades, with the limits and peculiarities of the exchange."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import fsum
from typing import Any

import msgspec

from extract.sandbox.instrument_names import DAY_MS
from extract.sandbox.params import ApiError, Params, invalid
from extract.sandbox.series import SeriesData
from extract.sandbox.tape import Record
from extract.sandbox.traps import Traps

FUNDING_ROWS = 744
"""Rows of an answer, counted back from its end: an earlier start is ignored."""
PAGE_LIMIT = 1_000
CANDLES = 1_000
SETTLEMENT_TYPES = ("settlement", "delivery", "bankruptcy")
CANDLE_STEPS = {"1": 1_000, "60": 60_000, "3600": 3_600_000, "43200": 43_200_000, "1D": DAY_MS}


@dataclass(frozen=True, slots=True)
class SeriesEndpoints:
    """The series methods at one moment. `quirks` ends a walk of settlements with an empty page instead of a null."""

    series: SeriesData
    now_ms: int
    quirks: bool
    traps: Traps

    def result(self, method: str, params: Params) -> bytes:
        """JSON of the result. Raises ApiError with the error that the exchange would return."""
        request = f"{method} {sorted(params.query.items())!r}"
        return msgspec.json.encode(METHODS[method](self, params, self.traps.is_empty(request)))

    def funding_rate_history(self, params: Params, is_empty: bool) -> list[Record]:
        name, start_ms, end_ms = self._perpetual(params)
        rows = self.traps.without_holes(
            self.series.funding_rates(name, self.now_ms), "funding_rates", name, lambda row: row["timestamp"]
        )
        # The start excludes its own row, and moves up to the limit of rows.
        inside = [row for row in rows if start_ms < row["timestamp"] <= end_ms]
        return [] if is_empty else inside[-FUNDING_ROWS:]

    def funding_rate_value(self, params: Params, _: bool) -> float:
        name, start_ms, end_ms = self._perpetual(params)
        rows = self.series.funding_rates(name, self.now_ms)
        return fsum(row["interest_1h"] for row in rows if start_ms < row["timestamp"] <= end_ms)

    def _perpetual(self, params: Params) -> tuple[str, int, int]:
        name = params.text("instrument_name")
        if not self.series.is_perpetual(name):
            raise invalid("instrument_name", "instrument is not a perpetual")
        return name, params.required_integer("start_timestamp"), params.required_integer("end_timestamp")

    def delivery_prices(self, params: Params, is_empty: bool) -> Record:
        name = params.text("index_name")
        if name not in self.series.index_names:
            raise invalid("index_name", "invalid index name")
        count, offset = params.count(PAGE_LIMIT), params.integer("offset") or 0
        rows = self.series.delivery_prices(name, self.now_ms)
        rows = self.traps.without_holes(rows, "delivery_prices", name, lambda row: row["date"])
        rows = self.traps.shift(rows, name)
        offset = 0 if "stuck" in self.traps else offset
        return {"records_total": len(rows), "data": [] if is_empty else rows[offset : offset + count]}

    def settlements_by_currency(self, params: Params, is_empty: bool) -> Record:
        return self._settlements(params, params.text("currency"), "", is_empty)

    def settlements_by_instrument(self, params: Params, is_empty: bool) -> Record:
        name = params.text("instrument_name")
        currency = self.series.currency_of(name)
        if currency is None:
            raise invalid("instrument_name", "instrument not found")
        return self._settlements(params, currency, name, is_empty)

    def _settlements(self, params: Params, currency: str, name: str, is_empty: bool) -> Record:
        type_ = params.choice("type", SETTLEMENT_TYPES, "")
        count = params.count(PAGE_LIMIT) if "count" in params.query else 20
        latest_ms = params.integer("search_start_timestamp")
        rows = [
            row
            for row in self._fed_settlements(currency)
            if type_ in (row["type"], "")
            and name in (row.get("instrument_name"), "")
            and (latest_ms is None or row["timestamp"] <= latest_ms)
        ]
        rest = self._after(rows, params.query.get("continuation"))
        page = rest[:count]
        has_end = not page or (len(rest) <= count and not self.quirks)
        token = None if has_end else _token(page[-1])
        if "stuck" in self.traps and rows:
            token = _token(rows[0])
        if is_empty:
            return {"settlements": [], "continuation": None}
        return {"settlements": page, "continuation": token}

    def _fed_settlements(self, currency: str) -> list[Record]:
        """All settlements, with holes: option deliveries of whole days."""
        rows = self.series.settlements(currency, self.now_ms)
        options = [
            row for row in rows if row["type"] == "delivery" and row["instrument_name"][-2:] in ("-C", "-P")
        ]
        fed = self.traps.without_holes(
            options, "deliveries", currency, lambda row: row["timestamp"] // DAY_MS
        )
        lacking = {id(row) for row in options} - {id(row) for row in fed}
        return [row for row in rows if id(row) not in lacking]

    def _after(self, rows: list[Record], token: str | None) -> list[Record]:
        if not token:
            return rows
        for place, row in enumerate(rows):
            if _token(row) == token:
                return rows[place + 1 :]
        raise ApiError(-32602, "Invalid params", data={"reason": "invalid token", "param": "continuation"})

    def volatility_index(self, params: Params, is_empty: bool) -> Record:
        currency = params.text("currency")
        resolution = params.text("resolution")
        if resolution not in CANDLE_STEPS:
            raise invalid("resolution", "wrong format")
        start_ms = params.required_integer("start_timestamp")
        end_ms = params.required_integer("end_timestamp")
        rows = self.series.volatility_index(currency, CANDLE_STEPS[resolution], self.now_ms)
        rows = self.traps.without_holes(rows, "volatility_index", currency, lambda row: row[0])
        inside = [row for row in rows if start_ms <= row[0] <= end_ms]
        page = inside[-CANDLES:]
        continuation: Any = page[0][0] - 1 if len(inside) > len(page) else None
        if "stuck" in self.traps:
            continuation = end_ms
        return {"data": [] if is_empty else page, "continuation": None if is_empty else continuation}

    def book_summaries(self, params: Params, _: bool) -> list[Record]:
        return self.series.book_summaries(params.text("currency"), self.now_ms)

    def index_price_names(self, params: Params, _: bool) -> list[str]:
        return self.series.index_names


def _token(row: Record) -> str:
    return f"{row['timestamp']:x}".upper() + f"{row['type']}{row.get('instrument_name', '')}".encode().hex()


METHODS: dict[str, Callable[[SeriesEndpoints, Params, bool], Any]] = {
    "get_funding_rate_history": SeriesEndpoints.funding_rate_history,
    "get_funding_rate_value": SeriesEndpoints.funding_rate_value,
    "get_delivery_prices": SeriesEndpoints.delivery_prices,
    "get_last_settlements_by_currency": SeriesEndpoints.settlements_by_currency,
    "get_last_settlements_by_instrument": SeriesEndpoints.settlements_by_instrument,
    "get_volatility_index_data": SeriesEndpoints.volatility_index,
    "get_book_summary_by_currency": SeriesEndpoints.book_summaries,
    "get_index_price_names": SeriesEndpoints.index_price_names,
    "get_supported_index_names": SeriesEndpoints.index_price_names,
}
