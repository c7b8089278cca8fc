"""Pager of a series that has one row per step of time. Pure state machine: no I/O.

Requests have one step of margin on either side, because the start may be exclusive. What an answer lacks is requested
again on its own, so that neither a limit of rows, nor a start that is ignored, nor an empty answer loses a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from extract.errors import ProofError

FRUITLESS_ANSWERS = 2
"""Successive answers to one request without a row that is missing, after which those rows count as missing."""
FRUITLESS_PAGES = 3
"""Successive pages of one continuation without a requested row after which it counts as stuck."""

Steps = tuple[int, int]
"""First and last step, both included; step n is the time n × step_ms."""


class CursorStuckError(ProofError):
    """The exchange's continuation, or the page at a further offset, does not move."""


@dataclass(frozen=True)
class Span:
    """Time from `start_ms` to `end_ms`, both included."""

    start_ms: int
    end_ms: int


def step_of(at_ms: int, step_ms: int) -> int:
    """The step that is nearest to a time: some rows are milliseconds off."""
    return (at_ms + step_ms // 2) // step_ms


def span_of(first: int, last: int, step_ms: int) -> Span:
    """Time to request for the rows of steps `first` to `last`, whether or not its start and end are exclusive."""
    return Span((first - 1) * step_ms, last * step_ms + step_ms // 2)


class GridPager:
    """Requests windows of at most `most` steps, oldest first, until `request` is None.

    `spans` are requested; steps for which `is_loaded` are read again, but not missed. `missing` then has the steps
    without a row.
    """

    def __init__(
        self,
        spans: Iterable[Steps],
        step_ms: int,
        most: int,
        is_loaded: Callable[[int], bool] = lambda step: False,
    ) -> None:
        self.step_ms = step_ms
        self.missing: list[int] = []
        self._windows = [window for span in spans for window in _cut(span, most)][::-1]
        self._is_loaded = is_loaded
        self._wanted: set[int] = set()
        self._seen: set[int] = set()
        self._span: Steps = (0, 0)
        self._wanted_before = self._fruitless = self._stuck = 0
        self.request: Span | None = None
        self._next_window()

    def feed(self, times_ms: Iterable[int], continue_ms: int | None = None) -> None:
        """Accept the times of an answer in any order, and set the next request.

        `continue_ms` is the exchange's continuation, the end of the next page. Raises CursorStuckError.
        """
        assert self.request is not None
        first, last = (self.request.start_ms // self.step_ms, self.request.end_ms // self.step_ms)
        seen = {step for at_ms in times_ms if first <= (step := step_of(at_ms, self.step_ms)) <= last}
        news = len(seen - self._seen)
        self._seen |= seen
        self._wanted -= seen
        if continue_ms is not None and continue_ms > self.request.start_ms + self.step_ms:
            self._continue(continue_ms, is_new=news > 0)
            return
        span = (min(self._wanted), max(self._wanted)) if self._wanted and self._seen else self._span
        if span != self._span or len(self._wanted) < self._wanted_before:
            self._fruitless = 0
        else:
            self._fruitless += 1
        if self._wanted and self._fruitless < FRUITLESS_ANSWERS:
            self._request(*span)
            return
        self.missing += sorted(self._wanted)
        self._next_window()

    def _continue(self, continue_ms: int, *, is_new: bool) -> None:
        assert self.request is not None
        self._stuck = 0 if is_new else self._stuck + 1
        if continue_ms >= self.request.end_ms or self._stuck >= FRUITLESS_PAGES:
            raise CursorStuckError(
                f"The answer to a request that ends at {self.request.end_ms} ms continues at {continue_ms} ms: "
                "the exchange does not page further back."
            )
        self.request = Span(self.request.start_ms, continue_ms)

    def _next_window(self) -> None:
        self._fruitless = self._stuck = 0
        self._seen = set()
        if not self._windows:
            self.request = None
            return
        first, last = self._windows.pop()
        self._wanted = {step for step in range(first, last + 1) if not self._is_loaded(step)}
        self._request(first, last)

    def _request(self, first: int, last: int) -> None:
        self._span = first, last
        self._seen, self._stuck = set(), 0
        self._wanted_before = len(self._wanted)
        self.request = span_of(first, last, self.step_ms)


def _cut(span: Steps, most: int) -> list[Steps]:
    """`span` in windows of at most `most` steps."""
    first, last = span
    return [(start, min(start + most - 1, last)) for start in range(first, last + 1, most)]


def ranges_of(steps: Iterable[int]) -> list[Steps]:
    """Ascending ranges of consecutive steps."""
    ranges: list[Steps] = []
    for step in sorted(steps):
        if ranges and step == ranges[-1][1] + 1:
            ranges[-1] = ranges[-1][0], step
        else:
            ranges.append((step, step))
    return ranges


def group_ranges(ranges: Iterable[Steps], most: int) -> list[Steps]:
    """Ranges in ascending order, joined where they fit one window of `most` steps together."""
    groups: list[Steps] = []
    for first, last in sorted(ranges):
        if groups and last - groups[-1][0] < most:
            groups[-1] = groups[-1][0], max(last, groups[-1][1])
        else:
            groups.append((first, last))
    return groups


def is_within(step: int, ranges: Iterable[Steps]) -> bool:
    """Whether a step is in one of the ranges."""
    return any(first <= step <= last for first, last in ranges)


def steps_of(ranges: Iterable[Steps]) -> set[int]:
    """All steps of the ranges."""
    return {step for first, last in ranges for step in range(first, last + 1)}
