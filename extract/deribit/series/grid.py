"""Pager of a series that has one row per step of time. Pure state machine: no I/O.

Requests have one step of margin on either side, because the start may be exclusive. What an answer lacks is requested
again on its own, first what is older than its rows, so that neither a limit of rows, nor a start that is ignored, nor an
empty answer loses a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from extract.errors import ProofError

FRUITLESS_ANSWERS = 2
"""Successive answers to one request without a row that is missing, after which those rows count as missing."""
FRUITLESS_PAGES = 3
"""Pages of one continuation that neither have a new row nor move back by a step, after which it counts as stuck."""

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
        self._empty = self._fruitless = self._stuck = 0
        self._has_progress = False
        self.request: Span | None = None
        self._next_window()

    def feed(self, times_ms: Iterable[int], continue_ms: int | None = None) -> None:
        """Accept the times of an answer in any order, and set the next request.

        `continue_ms` is the exchange's continuation, the end of the next page. Raises CursorStuckError.
        """
        assert self.request is not None
        first, last = (self.request.start_ms // self.step_ms, self.request.end_ms // self.step_ms)
        seen = {step for at_ms in times_ms if first <= (step := step_of(at_ms, self.step_ms)) <= last}
        is_new = bool(seen - self._seen)
        self._has_progress |= bool(seen & self._wanted)
        self._seen |= seen
        self._wanted -= seen
        is_later_page = self.request != span_of(*self._span, self.step_ms)
        if continue_ms == self.request.end_ms and is_later_page:
            continue_ms = None  # the rest is requested on its own
        if continue_ms is not None and continue_ms > self.request.start_ms + self.step_ms:
            self._continue(continue_ms, is_new=is_new)
        elif self._seen:
            self._empty, oldest = 0, min(self._seen)
            older = [step for step in self._wanted if step < oldest]
            if older:
                self._request(min(older), max(older))
            else:
                self._end_pass()
        else:
            self._repeat()

    def _continue(self, continue_ms: int, *, is_new: bool) -> None:
        assert self.request is not None
        end_ms = self.request.end_ms
        is_moving = is_new or end_ms - continue_ms >= self.step_ms
        self._stuck = 0 if is_moving else self._stuck + 1
        if continue_ms >= end_ms or self._stuck >= FRUITLESS_PAGES:
            raise CursorStuckError(
                f"The answer to a request that ends at {end_ms} ms continues at {continue_ms} ms: "
                "the exchange does not page further back."
            )
        self.request = Span(self.request.start_ms, continue_ms)

    def _repeat(self) -> None:
        """Request again what was answered without any row; after that its steps are missing."""
        self._empty += 1
        if self._empty < FRUITLESS_ANSWERS:
            self._request(*self._span)
            return
        first, last = self._span
        self._give_up([step for step in self._wanted if first <= step <= last])
        self._end_pass()

    def _end_pass(self) -> None:
        """After the oldest step, request those that are still wanted, until successive passes return none of them."""
        self._empty = 0
        self._fruitless = 0 if self._has_progress else self._fruitless + 1
        self._has_progress = False
        if self._fruitless >= FRUITLESS_ANSWERS:
            self._give_up(self._wanted)
        if self._wanted:
            self._request(min(self._wanted), max(self._wanted))
        else:
            self._next_window()

    def _give_up(self, steps: Iterable[int]) -> None:
        given_up = sorted(steps)
        self.missing += given_up
        self._wanted -= set(given_up)

    def _next_window(self) -> None:
        self._empty = self._fruitless = 0
        self._has_progress = False
        if not self._windows:
            self.request = None
            return
        first, last = self._windows.pop()
        self._wanted = {step for step in range(first, last + 1) if not self._is_loaded(step)}
        self._request(first, last)

    def _request(self, first: int, last: int) -> None:
        self._span = first, last
        self._seen, self._stuck = set(), 0
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
