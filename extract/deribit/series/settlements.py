"""Settlements, deliveries and bankruptcies of a currency.

`get_last_settlements_by_currency` pages backwards by a token. `search_start_timestamp` is the latest time to return, in
spite of its name. Where a walk ends, two requests prove that it ended at the beginning: the one for what is not later
than its oldest row returns that row, and the one for what is earlier returns none.

Each type has its own walk. `type` is optional, but what an answer without it contains is not documented; and a walk that
fails sets aside its type only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from extract.deribit.series.cadence import DAY_MS, EIGHT_O_CLOCK
from extract.deribit.series.client import SeriesClient
from extract.deribit.series.decode import RejectedRecord, decode_settlements, require_time
from extract.deribit.series.grid import CursorStuckError
from extract.deribit.series.schema import SETTLEMENTS, Row
from extract.deribit.series.state import (
    SeriesBatch,
    SeriesGap,
    SeriesState,
    advance,
    forget_old_days,
    select_changed,
)
from extract.deribit.streams import EPOCH_MS
from extract.errors import ProofError

TYPES = ("delivery", "settlement", "bankruptcy")
PAGE_ROWS = 1_000
"""The largest `count` that the exchange accepts."""
REREAD_DAYS = 7
"""Days before the newest row that are read again with the next request, to notice late and restated rows."""
FRUITLESS_PAGES = 3
"""Successive pages without a new row after which the continuation counts as stuck: in a walk for what is older, which
repeats the rows of the oldest time, as many more as there were pages before it."""
MAX_PAGES = 100_000
"""Pages until the beginning; the deliveries of BTC since 2019 are 90."""
MAX_NAMES = 5
"""Instruments that a gap names."""
cadence = EIGHT_O_CLOCK


class UndeliveredError(ProofError):
    """Instruments expired, and the feed has no delivery of them; `expired` and `missing` are the two values."""

    def __init__(self, expiry_ms: int, expired: int, missing: list[str]) -> None:
        names = ", ".join(missing[:MAX_NAMES]) + (" …" if len(missing) > MAX_NAMES else "")
        super().__init__(f"{len(missing):,} of {expired:,} expired instruments have no delivery: {names}")
        self.expiry_ms = expiry_ms
        self.expired = expired
        self.missing = missing


@dataclass(frozen=True)
class Latest:
    """Request the newest rows that are not later than `at_ms`; None: the newest of all."""

    at_ms: int | None = None


@dataclass(frozen=True)
class Continue:
    """Request the page of a token."""

    token: str


class SettlementPager:
    """Requests pages back to `stop_ms`, or to the beginning, until `request` is None.

    At the end of a walk the rows that are not later than its oldest one are requested: if one of them is new, the
    exchange had ended the walk too early, and another one begins there. Otherwise the oldest row must be among them, and
    a request for earlier rows must return none: if it does, other rows of the oldest time may be lost.
    """

    def __init__(self, stop_ms: int = 0, max_pages: int = MAX_PAGES) -> None:
        self.request: Latest | Continue | None = Latest()
        self.oldest_ms: int | None = None
        self._stop_ms, self._max_pages = stop_ms, max_pages
        self._start = Latest()
        self._is_last = self._is_repeated = False
        self._has_progress = self._is_answered = False
        self._tokens: set[str] = set()
        self._fruitless = self._pages = 0
        self._most_fruitless = FRUITLESS_PAGES

    def feed(
        self, times_ms: Collection[int], new_rows: int, token: str | None, new_rejected: int = 0
    ) -> None:
        """Accept the times of a page, how many of its rows are new, and its continuation. Raises CursorStuckError.

        Rejected rows have no time. New ones continue a walk, but are no reason for another one.
        """
        self._pages += 1
        if self._is_last and times_ms:
            raise CursorStuckError(
                f"The walk back through the settlements ended at {self.oldest_ms} ms, and there are earlier ones."
            )
        before = self.oldest_ms
        if times_ms:
            self.oldest_ms = min(times_ms) if before is None else min(*times_ms, before)
        self._has_progress |= new_rows > 0 or self.oldest_ms != before
        self._is_answered |= before in times_ms
        if self.oldest_ms is not None and self.oldest_ms < self._stop_ms:
            self.request = None
        elif token is None or not (times_ms or new_rejected):
            self._end_walk()
        else:
            self._continue(token, new_rows + new_rejected)

    def _continue(self, token: str, new_rows: int) -> None:
        self._fruitless = 0 if new_rows else self._fruitless + 1
        if token in self._tokens or self._fruitless >= self._most_fruitless or self._pages >= self._max_pages:
            raise self._stuck_error()
        self._tokens.add(token)
        self.request = Continue(token)

    def _end_walk(self) -> None:
        """Search for further rows after a walk with new ones, and then for earlier ones; empty answers are repeated."""
        if self._pages >= self._max_pages:
            raise self._stuck_error()
        if self._has_progress and self.oldest_ms is not None:
            self._search(Latest(self.oldest_ms + 1))
        elif self._is_answered and self.oldest_ms is not None:
            self._is_last = True
            self._search(Latest(self.oldest_ms - 1))
        elif not self._is_repeated:
            self._search(self._start, is_repeated=True)
        elif self._is_last or self.oldest_ms is None:
            self.request = None
        else:
            raise CursorStuckError(
                f"Settlements of {self.oldest_ms} ms were returned, and a request for them returns none."
            )

    def _search(self, start: Latest, *, is_repeated: bool = False) -> None:
        self.request = self._start = start
        self._is_repeated = is_repeated
        self._has_progress = self._is_answered = False
        self._fruitless, self._most_fruitless = 0, FRUITLESS_PAGES + self._pages
        self._tokens.clear()

    def _stuck_error(self) -> CursorStuckError:
        return CursorStuckError(
            f"The continuation of settlements does not move past {self.oldest_ms} ms after {self._pages:,} pages."
        )


def fetch_settlements(
    client: SeriesClient,
    currency: str,
    type_: str,
    state: SeriesState,
    now_ms: int,
    *,
    expired: Mapping[str, int] | None = None,
    again: bool = False,
) -> Iterator[SeriesBatch]:
    """Yield the settlements of one currency and type that are new or restated: nothing if none can be new.

    `expired` are expired instruments and their expiries in ms: those without a delivery are gaps. With `again` all
    settlements are read. Raises the errors of `client`, and CursorStuckError.
    """
    if not again and not cadence.is_due(now_ms, state.proven_ms, state.requested_ms):
        return
    state = state.copy()
    stop_ms = 0
    if not again and state.proven_ms is not None:
        stop_ms = (state.proven_ms // DAY_MS - REREAD_DAYS) * DAY_MS
    rows: dict[Any, Row] = {}
    rejected: list[RejectedRecord] = []
    pager = SettlementPager(stop_ms)

    def check(row: Row) -> None:
        if row["type"] not in TYPES:
            raise msgspec.ValidationError(f"type: {row['type']!r} is none of {', '.join(TYPES)}")
        if not row["instrument_name"] and row["type"] != "bankruptcy":
            raise msgspec.ValidationError("instrument_name is missing")
        require_time(_time(row), EPOCH_MS, now_ms + DAY_MS)

    while request := pager.request:
        position: dict[str, str | int] = {}
        if isinstance(request, Continue):
            position = {"continuation": request.token}
        elif request.at_ms is not None:
            position = {"search_start_timestamp": request.at_ms}
        page = client.call(
            client.live,
            "get_last_settlements_by_currency",
            {"currency": currency, "type": type_, "count": PAGE_ROWS, **position},
            lambda body: decode_settlements(SETTLEMENTS, body, check, currency=currency, type=type_),
        )
        rows_before, rejected_before = len(rows), len(rejected)
        rows |= {identity(row): row for row in page.rows if row["type"] == type_}
        rejected += [each for each in page.rejected if each not in rejected]
        times_ms = [_time(row) for row in page.rows]
        new_rejected = len(rejected) - rejected_before
        pager.feed(times_ms, len(rows) - rows_before, _token(page.continuation), new_rejected)
    delivered = {row["instrument_name"] for row in rows.values()}
    gaps = delivery_gaps(expired or {}, delivered, stop_ms) if type_ == "delivery" else []
    inside = [row for row in rows.values() if _time(row) >= stop_ms]
    changed = select_changed(state, inside, _time, complete_from_ms=stop_ms)
    advance(state, map(_time, inside), searched_ms=now_ms)
    state.requested_ms = now_ms
    forget_old_days(state)
    yield SeriesBatch(SETTLEMENTS.to_table(changed), state, gaps, rejected)


def identity(row: Row) -> tuple[Any, ...]:
    """Identity of a settlement. Bankruptcies may have no instrument, so what their columns have belongs to it."""
    if row["type"] != "bankruptcy":
        return SETTLEMENTS.key_of(row)
    return tuple(value for name, value in row.items() if name != "extra")


def delivery_gaps(expired: Mapping[str, int], delivered: Collection[str], from_ms: int) -> list[SeriesGap]:
    """One gap per expiry since `from_ms` of which instruments have no delivery."""
    by_expiry: dict[int, list[str]] = {}
    for name, expiry_ms in expired.items():
        if expiry_ms >= from_ms:
            by_expiry.setdefault(expiry_ms, []).append(name)
    gaps = []
    for expiry_ms, names in sorted(by_expiry.items()):
        try:
            require_deliveries(expiry_ms, names, delivered)
        except UndeliveredError as error:
            gaps.append(SeriesGap(expiry_ms, expiry_ms, len(error.missing), str(error)))
    return gaps


def require_deliveries(expiry_ms: int, expired: Iterable[str], delivered: Collection[str]) -> None:
    """Raise UndeliveredError unless each instrument that expired at `expiry_ms` has a delivery."""
    names = sorted(expired)
    missing = [name for name in names if name not in delivered]
    if missing:
        raise UndeliveredError(expiry_ms, len(names), missing)


def _token(continuation: str | int | None) -> str | None:
    return continuation if isinstance(continuation, str) else None


def _time(row: Row) -> int:
    return int(row["timestamp"])
