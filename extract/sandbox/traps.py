"""Misleading answers of the series endpoints, which are switched on with `traps=` of the faults.

They are deterministic: the same requests in the same order get the same answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TypeVar
from zlib import crc32

from extract.sandbox.tape import Record

TRAPS = {
    "holes": "rows that the feed lacks: hours of funding, candles, delivery prices, all deliveries of a day",
    "empty": "the first answer to about every third request has no rows",
    "shift": "the newest delivery price appears after the first page, and shifts every offset",
    "stuck": "continuations and offsets do not move",
    "bar": "one bar of each chart has another close",
}
_HOLES = {"funding_rates": 97, "volatility_index": 89, "delivery_prices": 11, "deliveries": 5}
"""One of so many rows is a hole."""

T = TypeVar("T")


class Traps:
    """The traps that are switched on, and how often each request was made.

    `bars`: changes of single bars, by instrument, resolution and start, whatever is switched on.
    """

    def __init__(self, names: frozenset[str] = frozenset()) -> None:
        self.names = names
        self.bars: dict[tuple[str, str, int], Record] = {}
        self._requests: Counter[str] = Counter()

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def without_holes(self, rows: list[T], series: str, key: str, time_of: Callable[[T], object]) -> list[T]:
        """The rows without those that are holes of the feed."""
        if "holes" not in self.names:
            return rows
        return [row for row in rows if not _is_hole(series, key, time_of(row))]

    def is_empty(self, request: str) -> bool:
        """Whether this answer is empty by mistake; the next one to the same request is not."""
        if "empty" not in self.names:
            return False
        self._requests[request] += 1
        return self._requests[request] == 1 and crc32(request.encode()) % 3 == 0

    def shift(self, rows: list[Record], key: str) -> list[Record]:
        """`rows`, in the first answer without the newest one."""
        if "shift" not in self.names:
            return rows
        self._requests[f"shift {key}"] += 1
        return rows[1:] if self._requests[f"shift {key}"] == 1 else rows

    def alter_bars(self, chart: Record, instrument_name: str, resolution: str) -> None:
        """Change the bars of `bars`, and the close of the middle one of those with trades."""
        for place, at_ms in enumerate(chart["ticks"]):
            for name, value in self.bars.get((instrument_name, resolution, at_ms), {}).items():
                chart[name][place] = value
        if "bar" in self.names:
            traded = [place for place, volume in enumerate(chart["volume"]) if volume]
            if traded:
                place = traded[len(traded) // 2]
                chart["close"][place] = round(chart["close"][place] * 1.01, 8)


def _is_hole(series: str, key: str, time: object) -> bool:
    return crc32(f"{series} {key} {time}".encode()) % _HOLES[series] == 0
