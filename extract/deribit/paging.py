"""Paging through one slice of time, as a state machine that knows no network.

A page's order, its number of rows and `has_more` prove nothing by themselves; what is relied on is that a page in
ascending order holds the first `count` trades of its range by id, and that ids run behind time by at most
`ID_LAG_MS`. What that still misses is found by the proof over `trade_seq`.
"""

from __future__ import annotations

from dataclasses import dataclass

from extract.errors import ProofError

ID_LAG_MS = 50
"""How far behind the clock a later id was seen: 18 ms across instruments, with room to spare."""


class CursorStuckError(ProofError):
    """The same page came twice although the exchange says that there is more."""


@dataclass(frozen=True)
class ByTime:
    """Ask for trades with start_ms <= timestamp <= end_ms, ascending."""

    start_ms: int
    end_ms: int


@dataclass(frozen=True)
class ById:
    """Ask for trades from `start_id` on, ascending: the way through a millisecond that no page holds."""

    start_id: str


@dataclass(frozen=True)
class PageFacts:
    """What the state machine needs to know of a page. Times and ids are None for an empty one."""

    rows: int
    has_more: bool
    count: int
    last_ms: int | None = None
    last_id: str | None = None

    @property
    def is_full(self) -> bool:
        return self.rows >= self.count


class SlicePager:
    """Yields the requests that together cover [start_ms, end_ms]; `request` is None when done."""

    def __init__(self, start_ms: int, end_ms: int) -> None:
        self.start_ms = start_ms
        self.end_ms = end_ms
        self.request: ByTime | ById | None = ByTime(start_ms, end_ms)
        self._crowded_ms = start_ms
        self._asked_again = False

    def feed(self, page: PageFacts) -> None:
        """Takes the answer to `request` and sets the next one. Raises CursorStuckError."""
        if isinstance(self.request, ById):
            self._after_id_page(self.request, page)
        elif isinstance(self.request, ByTime):
            self._after_time_page(self.request, page)

    def cut_at(self, page: PageFacts) -> bool:
        """Ends the slice where the first page surely reaches; False where it reaches nowhere."""
        if page.last_ms is None or page.last_ms - ID_LAG_MS <= self.start_ms:
            return False
        self.end_ms = page.last_ms - ID_LAG_MS - 1
        self.request = None
        return True

    def _after_time_page(self, asked: ByTime, page: PageFacts) -> None:
        last_ms = page.last_ms
        if last_ms is None or not (page.is_full or page.has_more):
            self.request = None if not page.has_more or self._asked_again else asked
            self._asked_again = True
        elif last_ms - ID_LAG_MS > asked.start_ms:
            self.request = ByTime(last_ms - ID_LAG_MS, self.end_ms)
        elif page.is_full:
            # Time cannot tell the rest of so crowded a moment from what was seen: go on by id.
            self._crowded_ms = last_ms
            self.request = ById(page.last_id or "")
        else:
            self.request = ByTime(last_ms, self.end_ms) if last_ms > asked.start_ms else None

    def _after_id_page(self, asked: ById, page: PageFacts) -> None:
        past = page.last_ms is None or page.last_ms > self._crowded_ms + ID_LAG_MS
        if past or not page.is_full:
            next_ms = self._crowded_ms + 1
            self.request = ByTime(next_ms, self.end_ms) if next_ms <= self.end_ms else None
        elif page.last_id == asked.start_id:
            raise CursorStuckError(
                f"Trade {asked.start_id} stayed the last one of a full page: the exchange does not page past it."
            )
        else:
            self.request = ById(page.last_id or "")
