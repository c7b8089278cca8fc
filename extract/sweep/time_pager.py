"""Paging through a slice of time, and through holes of trade_seq, as state machines that know no network.

A page's order, its number of rows and `has_more` prove nothing by themselves; what is relied on is that a page in
ascending order holds the first `count` trades of its range by id, and that ids run behind time by at most
`ID_LAG_MS`. What that still misses is found by the proof over `trade_seq`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from extract.errors import ProofError

ID_LAG_MS = 50
"""How far behind the clock a later id was seen: 18 ms across instruments, with room to spare."""
_ID = re.compile(r"(.*?)(\d+)")


class CursorStuckError(ProofError):
    """A full page brought nothing that a page before it had not."""


class OutsideRangeError(ProofError):
    """The exchange goes on answering with trades that were not asked for."""


class UnreadablePageError(ProofError):
    """A full page from which no cursor can be taken."""


@dataclass(frozen=True)
class ByTime:
    """Ask for trades with start_ms <= timestamp <= end_ms, ascending."""

    start_ms: int
    end_ms: int


@dataclass(frozen=True)
class ById:
    """Ask for trades from `start_id` on, ascending: the way through a moment that no page holds."""

    start_id: str


@dataclass(frozen=True)
class PageFacts:
    """What the state machine needs to know of a page.

    `last_ms` and `outside` (is there a row that was not asked for?) are about time; `trade_ids` are looked at only
    where time cannot tell trades apart.
    """

    rows: int
    has_more: bool
    count: int
    last_ms: int | None = None
    outside: bool = False
    trade_ids: Iterable[str] = ()

    @property
    def is_full(self) -> bool:
        return self.rows >= self.count


class SlicePager:
    """Yields the requests that together cover [start_ms, end_ms]; `request` is None when done.

    Up to `done_ms` every trade was seen: the slice may be left there, and the rest be another one.
    """

    def __init__(self, start_ms: int, end_ms: int) -> None:
        self.request: ByTime | ById | None = ByTime(start_ms, end_ms)
        self.done_ms = start_ms - 1
        self._open = [ByTime(start_ms, end_ms)]
        self._last_ms: int | None = None
        self._rechecked = False
        self._dense_ms = start_ms
        self._ids: dict[str, int] = {}
        self._ids_to_ask: dict[str, int] = {}

    def feed(self, page: PageFacts) -> None:
        """Takes the answer to `request` and sets the next one. Raises the errors of this module."""
        if isinstance(self.request, ById):
            self._after_id_page(self.request, page)
        elif isinstance(self.request, ByTime):
            self._after_time_page(self.request, page)

    def _after_time_page(self, asked: ByTime, page: PageFacts) -> None:
        if page.outside:
            self._split_range(asked)
        elif page.last_ms is None:
            if page.is_full:
                raise UnreadablePageError(
                    f"A full page of trades since {asked.start_ms} ms names no time: there is no way past it."
                )
            if page.has_more and not self._rechecked:
                self._rechecked = True
            else:
                self._close(asked)
        elif page.is_full:
            self._advance(asked, page, page.last_ms)
        elif page.has_more and (self._last_ms is None or page.last_ms > self._last_ms):
            # A short page that promises more contradicts itself: asked again from its end.
            self._last_ms = page.last_ms
            self._next(ByTime(max(asked.start_ms, page.last_ms - ID_LAG_MS), asked.end_ms))
        else:
            self._close(asked)

    def _advance(self, asked: ByTime, page: PageFacts, last_ms: int) -> None:
        next_ms = last_ms - ID_LAG_MS
        if next_ms > asked.start_ms:
            self.done_ms = next_ms - 1
            self._next(ByTime(next_ms, asked.end_ms))
            return
        # Time cannot tell the rest of so crowded a moment from what was seen: go on by id.
        self._dense_ms = last_ms
        self._ids = last_ids(page.trade_ids)
        self._ids_to_ask = dict(self._ids)
        self._next_id()

    def _after_id_page(self, asked: ById, page: PageFacts) -> None:
        further = {
            prefix: number
            for prefix, number in last_ids(page.trade_ids).items()
            if number > self._ids.get(prefix, -1)
        }
        self._ids |= further
        if page.last_ms is not None and page.last_ms > self._dense_ms + ID_LAG_MS:
            self._ids_to_ask.pop(id_parts(asked.start_id)[0], None)
        elif page.is_full or page.has_more:
            if page.is_full and not further and not self._ids_to_ask:
                raise CursorStuckError(
                    f"Trade {asked.start_id} stayed the last one of a full page: the exchange does not page past it."
                )
            self._ids_to_ask |= further
        self._next_id()

    def _next_id(self) -> None:
        if self._ids_to_ask:
            prefix, number = self._ids_to_ask.popitem()
            self.request = ById(f"{prefix}{number}")
            return
        self.done_ms = max(self.done_ms, min(self._dense_ms, self._open[-1].end_ms))
        end_ms = self._open[-1].end_ms
        if self._dense_ms < end_ms:
            self._next(ByTime(self._dense_ms + 1, end_ms))
        else:
            self._close(self._open[-1])

    def _next(self, span: ByTime) -> None:
        self._open[-1] = self.request = span

    def _close(self, span: ByTime) -> None:
        self.done_ms = span.end_ms
        self._open.pop()
        self._last_ms, self._rechecked = None, False
        self.request = self._open[-1] if self._open else None

    def _split_range(self, asked: ByTime) -> None:
        """Rows from outside stand for as many inside that are not there: smaller questions get whole answers."""
        if asked.start_ms >= asked.end_ms:
            raise OutsideRangeError(
                f"Asked for the trades of {asked.start_ms} ms alone, the exchange answers with trades of another time."
            )
        middle_ms = (asked.start_ms + asked.end_ms) // 2
        self._open[-1:] = [ByTime(middle_ms + 1, asked.end_ms), ByTime(asked.start_ms, middle_ms)]
        self._last_ms, self._rechecked = None, False
        self.request = self._open[-1]


def last_ids(trade_ids: Iterable[str]) -> dict[str, int]:
    """The greatest id under each prefix: `{"ETH-": 15}`. Raises UnreadablePageError for an id that is no number."""
    last: dict[str, int] = {}
    for trade_id in trade_ids:
        prefix, number = id_parts(trade_id)
        last[prefix] = max(number, last.get(prefix, -1))
    return last


def id_parts(trade_id: str) -> tuple[str, int]:
    """("ETH-", 15) of `ETH-15`, ("", 15) of `15`."""
    match = _ID.fullmatch(trade_id)
    if not match:
        raise UnreadablePageError(
            f"Trade id {trade_id!r} ends in no number: a moment with more trades than a page cannot be paged by it."
        )
    return match[1], int(match[2])
