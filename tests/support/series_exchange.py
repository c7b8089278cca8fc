"""Fake exchange of the series besides trades, with every peculiarity of the real one, as a function of the request.

It knows its rows as plain dictionaries and shares no code with the extractor or the sandbox.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from extract.deribit.series.state import SeriesBatch, SeriesState
from tests.support.contradictory_exchange import Answer, client_of

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
BEGIN = 1_700_006_400_000
"""2023-11-15 00:00 UTC."""
NAME = "BTC-PERPETUAL"


@dataclass
class Peculiarities:
    """How the exchange answers. `limit` rows are counted back from the end."""

    limit: int = 744
    ignores_start: bool = False
    excludes_start: bool = False
    excludes_end: bool = False
    order: str = "ascending"
    repeats_rows: bool = False
    first_answer_is_empty: bool = False
    null_at_end: bool = True
    shifts: bool = False


@dataclass
class SeriesExchange:
    """Rows by key and time; `requests` counts those of each method."""

    ways: Peculiarities = field(default_factory=Peculiarities)
    funding: dict[int, float] = field(default_factory=dict)
    candles: dict[int, list[float]] = field(default_factory=dict)
    prices: dict[str, float] = field(default_factory=dict)
    settled: list[dict[str, Any]] = field(default_factory=list)
    requests: Counter[str] = field(default_factory=Counter)
    _seen: set[str] = field(default_factory=set)

    def answer(self, method: str, params: dict[str, str]) -> dict[str, Any]:
        self.requests[method] += 1
        query = f"{method} {sorted(params.items())}"
        is_empty = self.ways.first_answer_is_empty and query not in self._seen
        self._seen.add(query)
        return {"result": getattr(self, method)(params, is_empty)}

    def _slice(self, times: Iterable[int], params: dict[str, str]) -> list[int]:
        """Times of an answer, which is limited from its end."""
        start, end = int(params["start_timestamp"]), int(params["end_timestamp"])
        inside = [
            each
            for each in sorted(times)
            if (each < end if self.ways.excludes_end else each <= end)
            and (self.ways.ignores_start or (each > start if self.ways.excludes_start else each >= start))
        ]
        return inside[-self.ways.limit :]

    def _ordered(self, rows: list[Any]) -> list[Any]:
        if self.ways.repeats_rows:
            rows = [*rows, *rows[-2:]]
        if self.ways.order == "descending":
            return rows[::-1]
        return rows[1::2] + rows[::2] if self.ways.order == "shuffled" else rows

    def get_funding_rate_history(self, params: dict[str, str], is_empty: bool) -> list[Any]:
        rows = [
            {"timestamp": each, "interest_1h": self.funding[each], "interest_8h": 0.0, "index_price": 1.0}
            for each in self._slice(self.funding, params)
        ]
        return [] if is_empty else self._ordered(rows)

    def get_funding_rate_value(self, params: dict[str, str], _: bool) -> float:
        start, end = int(params["start_timestamp"]), int(params["end_timestamp"])
        return sum(rate for each, rate in self.funding.items() if start < each <= end)

    def get_volatility_index_data(self, params: dict[str, str], is_empty: bool) -> dict[str, Any]:
        times = self._slice(self.candles, params)
        start = int(params["start_timestamp"])
        older = [each for each in self.candles if times and start <= each < times[0]]
        rows = [[each, *self.candles[each]] for each in times]
        if is_empty:
            return {"data": [], "continuation": None}
        return {"data": self._ordered(rows), "continuation": times[0] if older else None}

    def get_delivery_prices(self, params: dict[str, str], is_empty: bool) -> dict[str, Any]:
        count, offset = min(int(params["count"]), self.ways.limit), int(params["offset"])
        days = sorted(self.prices, reverse=True)
        if self.ways.shifts and self.requests["get_delivery_prices"] == 1:
            days = days[1:]
        rows = [{"date": day, "delivery_price": self.prices[day]} for day in days[offset : offset + count]]
        return {"records_total": len(days), "data": [] if is_empty else rows}

    def get_last_settlements_by_currency(self, params: dict[str, str], is_empty: bool) -> dict[str, Any]:
        latest = int(params.get("search_start_timestamp", 2**60))
        rows = [
            row
            for row in sorted(self.settled, key=lambda row: (-row["timestamp"], row["instrument_name"]))
            if row["type"] == params["type"] and row["timestamp"] <= latest
        ]
        token = params.get("continuation")
        if token:
            latest, place = map(int, token.split(":"))
            rows = [row for row in rows if row["timestamp"] <= latest][place:]
        page = rows[: min(int(params["count"]), self.ways.limit)]
        if is_empty:
            return {"settlements": [], "continuation": None}
        more = len(rows) > len(page) or (bool(page) and not self.ways.null_at_end)
        oldest = page[-1]["timestamp"] if page else 0
        start = int(token.split(":")[1]) if token and int(token.split(":")[0]) == oldest else 0
        same = sum(row["timestamp"] == oldest for row in page)
        return {"settlements": page, "continuation": f"{oldest}:{start + same}" if more else None}


class Loader:
    """Loads batches as the raw table does: rows are appended, and the last of each key counts."""

    def __init__(self, answer: Answer, *key: str) -> None:
        self.client = client_of(answer, most=3_000)
        self.state = SeriesState()
        self.key = key
        self.rows: dict[tuple[Any, ...], dict[str, Any]] = {}
        self.gaps: list[Any] = []
        self.rejected: list[str] = []
        self.disagreements: list[str] = []

    def load(self, batches: Iterable[SeriesBatch]) -> int:
        """Load all batches; returns the number of rows."""
        rows = 0
        for batch in batches:
            rows += batch.table.num_rows
            for row in _as_sent(batch.table):
                self.rows[tuple(row[name] for name in self.key)] = row
            self.state = SeriesState.read(batch.state.to_builtins())
            self.gaps = batch.gaps
            self.rejected += [each.raw for each in batch.rejected]
            self.disagreements += batch.disagreements
        return rows

    @property
    def requests(self) -> int:
        return self.client.stats.requests


def _as_sent(table: pa.Table) -> list[dict[str, Any]]:
    """Rows with times in ms and dates as text."""
    columns = {
        name: table.column(name).cast("int64")
        if pa.types.is_timestamp(table.schema.field(name).type)
        else table.column(name).cast("string")
        if pa.types.is_date(table.schema.field(name).type)
        else table.column(name)
        for name in table.schema.names
    }
    return pa.table(columns).to_pylist()
