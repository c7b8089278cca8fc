"""Cutting a stretch of time into slices of a few pages each, as a state machine that knows no network."""

from __future__ import annotations

import math
from dataclasses import dataclass

ONE_PAGE = 0.95
"""Pages that a slice is to fill where trading is even: as good as one, and no second is needed."""
SEVERAL_PAGES = 2.8
"""And where it is not: of a slice's pages only the last is part full, however many they turn out to be."""
EVEN = 0.05
"""Trading is even where a slice holds what the one before made expect, but for this share of it."""
MAX_GROWTH = 8
"""A slice is at most this much longer than the one before: trading wakes up faster than it falls asleep."""
FEW = 0.25
"""Share of a page and of a slice below which a remainder tells too little of what comes after it."""


@dataclass(frozen=True, order=True)
class Slice:
    """Trades with start_ms <= timestamp <= end_ms. A probe ends early, where its first page does."""

    start_ms: int
    end_ms: int
    is_probe: bool = False


@dataclass
class SliceSizer:
    """What a stream's slices tell of the next one: how long it should be, and how much trading varies."""

    length_ms: int
    rows_per_ms: float = 0.0
    variability: float = 1.0

    @classmethod
    def of(cls, span_ms: int, rows: int, page_size: int) -> SliceSizer:
        """Of a first slice."""
        sizer = cls(span_ms)
        sizer.learn(span_ms, rows, page_size)
        return sizer

    def learn(self, span_ms: int, rows: int, page_size: int) -> None:
        """Takes note of `rows` trades in a slice of `span_ms`."""
        if span_ms < self.length_ms * FEW and rows < page_size * FEW:
            return
        rows_per_ms = rows / span_ms
        missed_by = abs(rows_per_ms / self.rows_per_ms - 1) if self.rows_per_ms else 1.0
        self.variability = max(missed_by, self.variability / 2)
        aim = page_size * (ONE_PAGE if self.variability < EVEN else SEVERAL_PAGES)
        self.length_ms = math.ceil(span_ms * (min(MAX_GROWTH, aim / rows) if rows else MAX_GROWTH))
        self.rows_per_ms = rows_per_ms


class SlicePlanner:
    """Hands out slices in order of time from start_ms to end_ms, sized by the density seen so far.

    A slice that came back unfinished leaves a rest, which is handed out before anything newer. Without a `sizer` to
    begin with the first one is a probe.
    """

    def __init__(self, start_ms: int, end_ms: int, page_size: int, sizer: SliceSizer | None = None) -> None:
        self.end_ms = end_ms
        self.page_size = page_size
        self.sizer = sizer
        self._frontier_ms = start_ms
        self._probing = False
        self._remainders: list[Slice] = []

    @property
    def is_drained(self) -> bool:
        """Whether every slice has been handed out."""
        return self._frontier_ms > self.end_ms and not self._probing and not self._remainders

    @property
    def done_ms(self) -> int:
        """Up to where the slices reach without a gap, once all that were handed out are back."""
        return self._frontier_ms - 1

    def next_slice(self, *, drain_only: bool = False) -> Slice | None:
        """The next slice; None while a probe is out, or when there is nothing left."""
        if self._probing:
            return None
        if self._remainders:
            return self._next_remainder()
        if drain_only or self.is_drained:
            return None
        start_ms = self._frontier_ms
        if self.sizer is None:
            self._probing = True
            self._frontier_ms = self.end_ms + 1
            return Slice(start_ms, self.end_ms, is_probe=True)
        end_ms = min(self.end_ms, start_ms + self.sizer.length_ms - 1)
        self._frontier_ms = end_ms + 1
        return Slice(start_ms, end_ms)

    def _next_remainder(self) -> Slice:
        rest = self._remainders.pop()
        end_ms = min(rest.end_ms, rest.start_ms + (self.sizer.length_ms if self.sizer else 1) - 1)
        if end_ms < rest.end_ms:
            self._remainders.append(Slice(end_ms + 1, rest.end_ms))
        return Slice(rest.start_ms, end_ms)

    def observe(self, done: Slice, first_ms: int | None, end_ms: int, rows: int) -> None:
        """Learns from a finished slice: it covered up to `end_ms` with `rows` trades, the first at `first_ms`."""
        if done.is_probe:
            self._probing = False
            self._frontier_ms = end_ms + 1
        elif end_ms < done.end_ms:
            self._remainders.append(Slice(end_ms + 1, done.end_ms))
            self._remainders.sort(reverse=True)
        # A probe may begin with years of silence: its density counts from the first trade on.
        start_ms = first_ms if done.is_probe and first_ms is not None else done.start_ms
        span_ms = max(1, end_ms - start_ms + 1)
        if self.sizer:
            self.sizer.learn(span_ms, rows, self.page_size)
        else:
            self.sizer = SliceSizer.of(span_ms, rows, self.page_size)
