"""Delivery prices of an index: one per expiry day.

`get_delivery_prices` pages by offset, newest first. A new day shifts every offset, so pages overlap by a row and the
first page is read again last. `records_total` proves that no row was skipped, and a page without a new row beyond it
proves that it does not count too few.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import msgspec

from extract.deribit.series.cadence import DAY_MS, EIGHT_O_CLOCK, HOUR_MS
from extract.deribit.series.client import SeriesClient
from extract.deribit.series.decode import RejectedRecord, decode_delivery_prices, require_time
from extract.deribit.series.grid import CursorStuckError
from extract.deribit.series.schema import DELIVERY_PRICES, Row
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

PAGE_ROWS = 1_000
"""The largest `count` that the exchange accepts."""
PASSES = 3
"""Passes over all pages, before rows that `records_total` counts are missing."""
FRUITLESS_PAGES = 3
"""Successive pages without a new row, while `records_total` has more, after which the offset counts as stuck."""
cadence = EIGHT_O_CLOCK


class DeliveryCountError(ProofError):
    """The exchange counts more delivery prices than it returns; `returned` and `total` are the two values."""

    def __init__(self, index_name: str, returned: int, total: int) -> None:
        super().__init__(
            f"The exchange counts {total:,} delivery prices of {index_name}, and returned {returned:,} of them."
        )
        self.returned = returned
        self.total = total


@dataclass(frozen=True)
class Page:
    """Request the `count` rows that follow the newest `offset` ones."""

    offset: int
    count: int = PAGE_ROWS


class DeliveryPager:
    """Requests pages until each of `records_total` rows was returned; then `request` is None.

    `known_rows` are loaded, the newest of them `newest`. Where the first page shows that nothing but its own rows is
    new, it is the only one.
    """

    def __init__(self, known_rows: int = 0, newest: Hashable = None) -> None:
        self.request: Page | None = Page(0)
        self.total = 0
        self.rows: set[Hashable] = set()
        self.is_whole = False
        self._known_rows, self._newest = known_rows, newest
        self._passes = self._pages = self._fruitless = self._empty = 0
        self._last: Hashable = None
        self._reads_head = self._has_skipped = False

    @property
    def returned(self) -> int:
        """Number of different rows that were returned, or that are loaded."""
        return len(self.rows) if self.is_whole else max(self.total, len(self.rows))

    def feed(self, rows: Sequence[Hashable], total: int) -> None:
        """Accept the rows of the answer, newest first, and set the next request. Raises CursorStuckError."""
        assert self.request is not None
        offset = self.request.offset
        is_new = bool(set(rows) - self.rows)
        self.rows.update(rows)
        self.total = total
        self._pages += 1
        # Without the last row of the page before, rows were removed in between, and others skipped.
        self._has_skipped |= bool(rows) and self._last is not None and self._last not in rows
        if self._reads_head:
            self._end_pass(is_final=not is_new)
        elif self._pages == 1 and self._only_head_is_new(rows):
            self.request = None
        elif not rows and self._empty == 0:
            self._empty = 1
        elif not rows or (not is_new and offset + len(rows) >= total):
            self.is_whole, self._last = True, None
            self._reads_head = offset > 0
            self.request = Page(0)
            if not self._reads_head:
                self._end_pass(is_final=True)
        else:
            self._next_page(rows, is_new=is_new)

    def _only_head_is_new(self, rows: Sequence[Hashable]) -> bool:
        """Whether the rows before the newest known one explain the difference of the numbers of rows."""
        return self._newest in rows and self.total == self._known_rows + list(rows).index(self._newest)

    def _next_page(self, rows: Sequence[Hashable], *, is_new: bool) -> None:
        assert self.request is not None
        offset = self.request.offset
        self._empty = 0
        self._fruitless = 0 if is_new else self._fruitless + 1
        if self._fruitless >= FRUITLESS_PAGES and self._passes == 0:
            raise CursorStuckError(
                f"The exchange counts {self.total:,} delivery prices, and offset {offset:,} returned none that an "
                "earlier offset had not."
            )
        self._last = rows[-1] if len(rows) > 1 else None
        self.request = Page(offset + max(len(rows) - 1, 1))

    def _end_pass(self, *, is_final: bool) -> None:
        self._reads_head = False
        self._fruitless = self._empty = 0
        self._passes += 1
        is_done = is_final and not self._has_skipped and len(self.rows) >= self.total
        self._has_skipped = False
        self.request = None if is_done or self._passes >= PASSES else Page(0)


def fetch_delivery_prices(
    client: SeriesClient,
    index_name: str,
    state: SeriesState,
    now_ms: int,
    *,
    expiry_days: Iterable[date] = (),
    again: bool = False,
) -> Iterator[SeriesBatch]:
    """Yield the delivery prices of an index that are new or restated: nothing if none can be new.

    `expiry_days` are days on which instruments of the index expired: those without a price are gaps. With `again` all
    are read. Raises the errors of `client`, and CursorStuckError.
    """
    if not again and not cadence.is_due(now_ms, state.proven_ms, state.requested_ms):
        return
    state = state.copy()
    newest = None if again or state.proven_ms is None else _day(state.proven_ms)
    pager = DeliveryPager(state.loaded_rows, newest)
    rows: dict[Any, Row] = {}
    rejected: list[RejectedRecord] = []

    def check(row: Row) -> None:
        if row["index_name"] != index_name:
            raise msgspec.ValidationError(f"index_name: {row['index_name']!r} was not requested")
        require_time(_time(row), EPOCH_MS, now_ms + DAY_MS)

    while request := pager.request:
        page = client.call(
            client.live,
            "get_delivery_prices",
            {"index_name": index_name, "offset": request.offset, "count": request.count},
            lambda body: decode_delivery_prices(DELIVERY_PRICES, body, check, index_name=index_name),
        )
        rows |= {DELIVERY_PRICES.key_of(row): row for row in page.rows}
        rejected += [each for each in page.rejected if each not in rejected]
        days: list[Hashable] = [row["date"] for row in page.rows]
        pager.feed([*(each.raw for each in page.rejected), *days], page.total or 0)
    dates = {row["date"] for row in rows.values()}
    complete_from_ms = 0 if pager.is_whole or not dates else time_of_day(min(dates)) // DAY_MS * DAY_MS
    missing = _missing_days(dates, expiry_days, state, complete_from_ms, now_ms)
    gaps = _gaps(index_name, pager, dates, missing, state, now_ms)
    changed = select_changed(state, rows.values(), _time, complete_from_ms=complete_from_ms)
    advance(state, map(_time, rows.values()), searched_ms=now_ms)
    state.requested_ms = now_ms
    state.holes = [(at_ms, at_ms) for at_ms in missing]
    forget_old_days(state)
    yield SeriesBatch(DELIVERY_PRICES.to_table(changed), state, gaps, rejected)


def _missing_days(
    dates: set[date], expiry_days: Iterable[date], state: SeriesState, complete_from_ms: int, now_ms: int
) -> list[int]:
    """Times of expiry days without a price, of which earlier ones are in the state."""
    due_ms = cadence.last_due_ms(now_ms)
    expected = {time_of_day(day) for day in expiry_days}
    arrived = {time_of_day(day) for day in dates}
    missing = {at_ms for at_ms in expected - arrived if complete_from_ms <= at_ms <= due_ms}
    return sorted(missing | {first for first, _ in state.holes} - arrived)


def _gaps(
    index_name: str,
    pager: DeliveryPager,
    dates: set[date],
    missing: Iterable[int],
    state: SeriesState,
    now_ms: int,
) -> list[SeriesGap]:
    """The `missing` days, and rows that only `records_total` counts: of these no day is known."""
    gaps = [SeriesGap(at_ms, at_ms, 1, "no delivery price of an expiry day") for at_ms in missing]
    try:
        require_total(index_name, pager.returned, pager.total)
    except DeliveryCountError as error:
        first = time_of_day(min(dates)) if dates else state.first_ms or 0
        last = time_of_day(max(dates)) if dates else now_ms
        gaps.append(SeriesGap(first, last, error.total - error.returned, str(error)))
    return gaps


def require_total(index_name: str, returned: int, total: int) -> None:
    """Raise DeliveryCountError unless as many different rows were returned as the exchange counts."""
    if returned < total:
        raise DeliveryCountError(index_name, returned, total)


def time_of_day(day: date) -> int:
    """Time of the delivery on a day, 08:00 UTC, in ms."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000 + 8 * HOUR_MS


def _day(at_ms: int) -> date:
    return datetime.fromtimestamp(at_ms / 1000, UTC).date()


def _time(row: Row) -> int:
    return time_of_day(row["date"])
