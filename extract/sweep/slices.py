"""Cut a span of time into slices of a few pages each. Pure state machine: no I/O."""

from __future__ import annotations

import math
from dataclasses import dataclass

ONE_PAGE = 0.9537
"""Target size of a slice in pages where trading is even: it needs no second page.

With pages of 1,000 and 10,000 trades this is no round number of trades, which would look like a page that was cut.
"""
SEVERAL_PAGES = 2.8
"""Target size of a slice in pages elsewhere: only the last of its pages is partly filled."""
EVEN = 0.05
"""Trading is even if the density of successive slices differs by less than this share."""
MAX_GROWTH = 8
"""Maximum growth factor from one slice to the next, because activity can rise abruptly."""
MIN_SAMPLE = 0.25
"""Share of a page, and of a slice's length, below which a slice does not change the estimate."""


@dataclass(frozen=True, order=True)
class Slice:
    """Trades with start_ms <= timestamp <= end_ms. A probe ends where its first page ends."""

    start_ms: int
    end_ms: int
    is_probe: bool = False


@dataclass
class SliceSizer:
    """Estimates the length of the next slice from the density of earlier ones, and how much density varies."""

    length_ms: int
    rows_per_ms: float = 0.0
    variability: float = 1.0

    @classmethod
    def of(cls, span_ms: int, rows: int, page_size: int) -> SliceSizer:
        """A sizer that has learned from a first slice."""
        sizer = cls(span_ms)
        sizer.learn(span_ms, rows, page_size)
        return sizer

    def learn(self, span_ms: int, rows: int, page_size: int) -> None:
        """Update the estimate with a slice of `span_ms` that held `rows` trades."""
        if span_ms < self.length_ms * MIN_SAMPLE and rows < page_size * MIN_SAMPLE:
            return
        rows_per_ms = rows / span_ms
        deviation = abs(rows_per_ms / self.rows_per_ms - 1) if self.rows_per_ms else 1.0
        self.variability = max(deviation, self.variability / 2)
        aim = page_size * (ONE_PAGE if self.variability < EVEN else SEVERAL_PAGES)
        self.length_ms = math.ceil(span_ms * (min(MAX_GROWTH, aim / rows) if rows else MAX_GROWTH))
        self.rows_per_ms = rows_per_ms


class SlicePlanner:
    """Plans slices in order of time from start_ms to end_ms, sized by the density so far.

    The remainder of a slice that ended early is planned before anything newer. Without a `sizer` the first slice is a
    probe.
    """

    def __init__(self, start_ms: int, end_ms: int, page_size: int, sizer: SliceSizer | None = None) -> None:
        self.end_ms = end_ms
        self.page_size = page_size
        self.sizer = sizer
        self._start_ms = start_ms
        self._frontier_ms = start_ms
        self._probing = False
        self._remainders: list[Slice] = []

    @property
    def is_drained(self) -> bool:
        """Whether every slice has been planned."""
        return self._frontier_ms > self.end_ms and not self._probing and not self._remainders

    @property
    def is_untouched(self) -> bool:
        """Whether no slice has been planned."""
        return self._frontier_ms == self._start_ms and not self._probing

    @property
    def done_ms(self) -> int:
        """End of the time that is complete once all planned slices are finished."""
        return self._frontier_ms - 1

    def next_slice(self, *, drain_only: bool = False) -> Slice | None:
        """The next slice; None while a probe is under way, and after the last one."""
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
        remainder = self._remainders.pop()
        end_ms = min(remainder.end_ms, remainder.start_ms + (self.sizer.length_ms if self.sizer else 1) - 1)
        if end_ms < remainder.end_ms:
            self._remainders.append(Slice(end_ms + 1, remainder.end_ms))
        return Slice(remainder.start_ms, end_ms)

    def observe(self, done: Slice, first_ms: int | None, end_ms: int, rows: int) -> None:
        """Accept a finished slice: complete up to `end_ms`, with `rows` trades, the first at `first_ms`."""
        if done.is_probe:
            self._probing = False
            self._frontier_ms = end_ms + 1
        elif end_ms < done.end_ms:
            self._remainders.append(Slice(end_ms + 1, done.end_ms))
            self._remainders.sort(reverse=True)
        # A probe may begin with years without trades: its density counts from the first trade on.
        start_ms = first_ms if done.is_probe and first_ms is not None else done.start_ms
        span_ms = max(1, end_ms - start_ms + 1)
        if self.sizer:
            self.sizer.learn(span_ms, rows, self.page_size)
        else:
            self.sizer = SliceSizer.of(span_ms, rows, self.page_size)
