"""Page through a slice of time. Pure state machine: no I/O.

The order of a page, its number of rows and `has_more` are not relied on. The assumptions are that a page in ascending
order holds the first trades of its range by id, up to `count` or to a lower limit of the host, and that ids lag behind
time by at most `ID_LAG_MS`. Trades that are missed nevertheless are detected by `ledger`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from extract.errors import ProofError

ID_LAG_MS = 50
"""Greatest lag of ids behind time; 18 ms were observed across instruments."""
_ID = re.compile(r"((?:.*\D)?)(\d{1,18})")


class CursorStuckError(ProofError):
    """A full page has no trade that an earlier page did not have."""


class OutsideRangeError(ProofError):
    """The exchange repeatedly sends trades that were not requested."""


class UnreadablePageError(ProofError):
    """A full page has neither a time nor an id to continue from."""


@dataclass(frozen=True)
class ByTime:
    """Request trades with start_ms <= timestamp <= end_ms, ascending."""

    start_ms: int
    end_ms: int


@dataclass(frozen=True)
class ById:
    """Request trades from `start_id` on, ascending: for a moment with more trades than fit a page."""

    start_id: str


@dataclass(frozen=True)
class PageFacts:
    """Facts of a page that decide on the next request.

    `has_more`: whether the page may be cut, although it has fewer rows than requested. `last_ms` is the latest requested
    time; `outside`: so many trades were not requested that requested ones may be missing. `trade_ids` are used only within
    a moment that has more trades than fit a page.
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
    """Requests pages that together cover [start_ms, end_ms], until `request` is None.

    Every trade up to `done_ms` has been fetched: the slice may end there, and its remainder become another slice.
    """

    def __init__(self, start_ms: int, end_ms: int) -> None:
        self.request: ByTime | ById | None = ByTime(start_ms, end_ms)
        self.done_ms = start_ms - 1
        self._open = [ByTime(start_ms, end_ms)]
        self._last_ms: int | None = None
        self._most_rows = 1
        self._rechecked = False
        self._dense_ms = start_ms
        self._ids: dict[str, int] = {}
        self._ids_to_request: dict[str, int] = {}

    def feed(self, page: PageFacts) -> None:
        """Accept the answer to `request` and set the next one. Raises the errors of this module."""
        if isinstance(self.request, ById):
            self._after_id_page(self.request, page)
        elif isinstance(self.request, ByTime):
            self._after_time_page(self.request, page)

    def _after_time_page(self, requested: ByTime, page: PageFacts) -> None:
        if page.outside:
            self._split_range(requested)
        elif page.last_ms is None:
            if page.is_full:
                raise UnreadablePageError(
                    f"A full page of trades since {requested.start_ms} ms has no valid time to continue from."
                )
            if page.has_more and not self._rechecked:
                self._rechecked = True
            else:
                self._close(requested)
        elif page.is_full or self._is_cut(page, page.last_ms):
            self._advance(requested, page, page.last_ms)
        else:
            self._close(requested)

    def _is_cut(self, page: PageFacts, last_ms: int) -> bool:
        """Whether a short page with has_more has as many trades as its host sends, so that others may follow.

        It has not if it has no later trade than the page before it and far fewer rows.
        """
        is_later = self._last_ms is None or last_ms > self._last_ms
        is_large = page.rows > self._most_rows // 2 and page.rows > 1
        self._last_ms, self._most_rows = last_ms, max(self._most_rows, page.rows)
        return page.has_more and (is_later or is_large)

    def _advance(self, requested: ByTime, page: PageFacts, last_ms: int) -> None:
        next_ms = last_ms - ID_LAG_MS
        if next_ms > requested.start_ms:
            self.done_ms = next_ms - 1
            self._next(ByTime(next_ms, requested.end_ms))
            return
        # More trades than fit a page have nearly the same time: continue by id.
        self._dense_ms = last_ms
        self._ids = last_ids(page.trade_ids)
        self._ids_to_request = dict(self._ids)
        self._next_id()

    def _after_id_page(self, requested: ById, page: PageFacts) -> None:
        further = {
            prefix: number
            for prefix, number in last_ids(page.trade_ids).items()
            if number > self._ids.get(prefix, -1)
        }
        self._ids |= further
        if page.last_ms is not None and page.last_ms > self._dense_ms + ID_LAG_MS:
            prefix, _ = id_parts(requested.start_id) or ("", 0)
            self._ids_to_request.pop(prefix, None)
        else:
            if page.is_full and not further and not self._ids_to_request:
                raise CursorStuckError(
                    f"Trade {requested.start_id} stayed the last one of a full page: the exchange does not page past it."
                )
            self._ids_to_request |= further
        self._next_id()

    def _next_id(self) -> None:
        if self._ids_to_request:
            prefix, number = self._ids_to_request.popitem()
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

    def _split_range(self, requested: ByTime) -> None:
        """Halve the range: trades from outside took the place of trades inside, and small requests are answered fully."""
        if requested.start_ms >= requested.end_ms:
            raise OutsideRangeError(
                f"Trades of {requested.start_ms} ms alone were requested, and the exchange sent trades of another time."
            )
        middle_ms = (requested.start_ms + requested.end_ms) // 2
        self._open[-1:] = [ByTime(middle_ms + 1, requested.end_ms), ByTime(requested.start_ms, middle_ms)]
        self._last_ms, self._rechecked = None, False
        self.request = self._open[-1]


def last_ids(trade_ids: Iterable[str]) -> dict[str, int]:
    """Greatest number of each id prefix: `{"ETH-": 15}`. Raises UnreadablePageError if no id has a number."""
    last: dict[str, int] = {}
    odd = None
    for trade_id in trade_ids:
        if parts := id_parts(trade_id):
            prefix, number = parts
            last[prefix] = max(number, last.get(prefix, -1))
        else:
            odd = trade_id
    if odd is not None and not last:
        raise UnreadablePageError(
            f"Trade id {odd!r} does not end in a number, so a moment with more trades than a page cannot be paged."
        )
    return last


def id_parts(trade_id: str) -> tuple[str, int] | None:
    """("ETH-", 15) of `ETH-15`, ("", 15) of `15`; None for an id that does not end in a number of at most 18 digits."""
    match = _ID.fullmatch(trade_id)
    return (match[1], int(match[2])) if match else None
