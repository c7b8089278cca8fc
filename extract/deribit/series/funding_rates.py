"""Funding rates of perpetuals: one row per full hour.

`get_funding_rate_history` returns at most 744 rows, counted back from the end of the requested time; an earlier start is
ignored without an error. So the history is paged in windows of four weeks, from now back to where it begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import fsum
from typing import Any

import msgspec

from extract.deribit.jsonrpc import Envelope
from extract.deribit.series.cadence import DAY_MS, HOUR_MS, HOURLY
from extract.deribit.series.client import SeriesClient
from extract.deribit.series.decode import RejectedRecord, SeriesPage, decode_list, require_time
from extract.deribit.series.grid import (
    FRUITLESS_ANSWERS,
    GridPager,
    Span,
    Steps,
    group_ranges,
    ranges_of,
    span_of,
    step_of,
    steps_of,
)
from extract.deribit.series.schema import FUNDING_RATES, Row
from extract.deribit.series.state import (
    SeriesBatch,
    SeriesState,
    advance,
    forget_old_days,
    grid_gaps,
    hole_steps,
    loaded_steps,
    missing_steps,
    select_changed,
    set_holes,
    take_more_holes,
)
from extract.deribit.streams import EPOCH_MS
from extract.errors import OutsideError, ProofError

WINDOW_HOURS = 28 * 24
"""Less than the 744 rows of an answer, with the margin of a request."""
REREAD_HOURS = 26 * 24
"""Hours before the newest row that are read again with the next request, to notice restated rates."""
SUM_HOURS = 365 * 24
"""Longest time whose sum is compared."""
MIN_SUM_HOURS = 24
cadence = HOURLY
_number_decoder = msgspec.json.Decoder(Envelope[float])


class FundingSumError(ProofError):
    """The sum of loaded rates differs from the exchange's; `loaded` and `exchange` are the two values."""

    def __init__(self, instrument_name: str, span: Span, loaded: float, exchange: float) -> None:
        super().__init__(
            f"Funding of {instrument_name} from {span.start_ms} to {span.end_ms} ms adds up to {loaded:.12g}, and the "
            f"exchange's own sum is {exchange:.12g}."
        )
        self.loaded = loaded
        self.exchange = exchange


class FundingPager:
    """Requests the hours from `first` to `last`, until `request` is None.

    Windows are requested from the newest back to the first hour of the history, which no request returns directly. So
    that a hole in the feed does not pass for its beginning, an empty window is followed by requests for everything
    before it, at ends that step back by a window, since an answer may be limited by time instead of rows. Hours in
    between without a row are then requested again on their own, except those that are `known` to be loaded or missing.
    """

    def __init__(self, first: int, last: int, known: Iterable[Steps] = ()) -> None:
        self._first, self._last = first, last
        self._known = list(known)
        self._hours: set[int] = set()
        self._grid: GridPager | None = None
        self._end = last
        self._empty = 0
        self._steps_back = False
        self.request: Span | None = None
        self._request_window()

    def feed(self, times_ms: Iterable[int]) -> None:
        """Accept the times of an answer in any order, and set the next request."""
        hours = {hour for at_ms in times_ms if self._first <= (hour := step_of(at_ms, HOUR_MS)) <= self._last}
        if self._grid:
            self._grid.feed(hour * HOUR_MS for hour in hours)
            self.request = self._grid.request
            return
        self._hours |= hours
        window = self._window()
        oldest = next((hour for hour in window if hour in self._hours), None)
        if oldest is None:
            self._step()
        elif self._steps_back:  # the end of a hole
            self._end = max(hour for hour in self._hours if hour <= self._end)
            self._empty, self._steps_back = 0, False
        else:
            self._end, self._empty = oldest - 1, 0
        self._request_window()

    def _window(self) -> range:
        first = self._first if self._steps_back else max(self._end - WINDOW_HOURS + 1, self._first)
        return range(first, self._end + 1)

    def _step(self) -> None:
        """After an empty window, request it again, then everything before its end, twice, then before earlier ends."""
        self._empty += 1
        if self._empty == 2:
            self._steps_back = True
        elif self._empty >= 4:
            self._end -= WINDOW_HOURS

    def _request_window(self) -> None:
        if self._end >= self._first:
            self.request = span_of(self._window()[0], self._end, HOUR_MS)
            return
        begin = self._first if self._known else min(self._hours, default=self._last + 1)
        known = self._hours | steps_of(self._known)
        self._grid = regrid([hour for hour in range(begin, self._last + 1) if hour not in known])
        self.request = self._grid.request


def regrid(hours: Iterable[int]) -> GridPager:
    """A pager of these hours alone; those that are close to each other are requested together."""
    wanted = set(hours)
    spans = group_ranges(ranges_of(wanted), WINDOW_HOURS)
    return GridPager(spans, HOUR_MS, WINDOW_HOURS, lambda hour: hour not in wanted)


def fetch_funding_rates(
    client: SeriesClient,
    instrument_name: str,
    state: SeriesState,
    now_ms: int,
    *,
    since_ms: int,
    until_ms: int | None = None,
    again: bool = False,
) -> Iterator[SeriesBatch]:
    """Yield the rates of a perpetual that are new or restated: nothing if none can be new.

    `since_ms` is a time before which there are none, for example the perpetual's creation; `until_ms` is its expiry.
    With `again` the whole history is read. Raises the errors of `client`, and CursorStuckError.
    """
    newest_ms = since_ms if state.proven_ms is None else state.proven_ms
    is_due = cadence.is_due(now_ms, newest_ms, state.requested_ms)
    is_over = state.proven_ms is not None and until_ms is not None and state.proven_ms > until_ms - HOUR_MS
    if not again and (is_over or not is_due):
        return
    state = state.copy()
    last = (min(now_ms, until_ms or now_ms) - cadence.delay_ms) // HOUR_MS
    first = -(-since_ms // HOUR_MS)
    if not again and state.proven_ms is not None:
        first = max(step_of(state.proven_ms, HOUR_MS) - REREAD_HOURS, step_of(state.first_ms or 0, HOUR_MS))
    limits = max(since_ms, EPOCH_MS) - HOUR_MS, now_ms + HOUR_MS
    walk = _Walk(client, instrument_name, limits)
    if state.searched_ms is not None and state.proven_ms is None and not walk.has_rates(first, last):
        state.requested_ms = now_ms
        yield SeriesBatch(FUNDING_RATES.to_table([]), state, rejected=walk.rejected)
        return
    unknown = take_more_holes(state, first, last, HOUR_MS)
    loaded, holes = loaded_steps(state, HOUR_MS, unknown), hole_steps(state, HOUR_MS)
    heals = again or (state.healed_ms or 0) + DAY_MS <= now_ms
    walk.read(FundingPager(first, last, loaded if heals else [*loaded, *holes]))
    if heals:
        walk.read(regrid(hour for hour in steps_of(holes) if hour < first))
        state.healed_ms = now_ms
    hours = {step_of(_time(row), HOUR_MS) for row in walk.rows.values()}
    remaining = missing_steps(loaded, hours)
    if heals:
        walk.compare_sums(state, remaining, first * HOUR_MS)
    rows = list(walk.rows.values())
    changed = select_changed(state, rows, _time, complete_from_ms=(first - 1) * HOUR_MS + 1, step_ms=HOUR_MS)
    advance(state, map(_time, rows), searched_ms=last * HOUR_MS)
    state.requested_ms = now_ms
    set_holes(state, remaining, HOUR_MS)
    forget_old_days(state)
    gaps, sentences = grid_gaps(state, HOUR_MS), [sentence for *_, sentence in state.disagreements]
    yield SeriesBatch(FUNDING_RATES.to_table(changed), state, gaps, walk.rejected, sentences)


def _time(row: Row) -> int:
    return int(row["timestamp"])


class _Walk:
    """Rows of one perpetual that the requests of any number of pagers return; each row once, in its latest version."""

    def __init__(self, client: SeriesClient, instrument_name: str, limits: tuple[int, int]) -> None:
        self.rows: dict[Any, Row] = {}
        self.rejected: list[RejectedRecord] = []
        self._client = client
        self._name = instrument_name
        self._limits = limits

    def has_rates(self, first: int, last: int) -> bool:
        """Whether there is any record from hour `first` to `last`, of a perpetual that had none in an earlier run."""
        span = span_of(first, last, HOUR_MS)
        return first <= last and any(self._request(span).records for _ in range(FRUITLESS_ANSWERS))

    def read(self, pager: FundingPager | GridPager) -> None:
        """Feed the pager until it has no further request."""
        while span := pager.request:
            page = self._request(span)
            pager.feed(_time(row) for row in page.rows)

    def _request(self, span: Span) -> SeriesPage:
        page = self._client.call(
            self._client.live,
            "get_funding_rate_history",
            {
                "instrument_name": self._name,
                "start_timestamp": max(span.start_ms, 0),
                "end_timestamp": span.end_ms,
            },
            lambda body: decode_list(FUNDING_RATES, body, self._check, instrument_name=self._name),
        )
        self.rows |= {FUNDING_RATES.key_of(row): row for row in page.rows}
        self.rejected += [each for each in page.rejected if each not in self.rejected]
        return page

    def _check(self, row: Row) -> None:
        if row["instrument_name"] != self._name:
            raise msgspec.ValidationError(f"instrument_name: {row['instrument_name']!r} was not requested")
        require_time(_time(row), *self._limits)

    def compare_sums(self, state: SeriesState, holes: list[Steps], read_from_ms: int) -> None:
        """Compare sums of complete days with the exchange's, and read a span that differs again.

        Days are compared once, and those in which a disagreement began since `read_from_ms` until they agree. What the
        exchange does not answer is compared the next time, and does not hold up the rows.
        """
        if not self.rows:
            return
        times = [_time(row) for row in self.rows.values()]
        repeated = [start_ms for start_ms, *_ in state.disagreements if start_ms >= read_from_ms]
        first = min([max(min(times), state.compared_ms or 0), *repeated])
        last = max(times) // DAY_MS * DAY_MS
        if last - first < MIN_SUM_HOURS * HOUR_MS:
            return
        state.compared_ms = last
        state.disagreements = [
            each for each in state.disagreements if each[0] < read_from_ms and each[0] < each[1]
        ]
        for span in sum_spans(first, last, [(start * HOUR_MS, end * HOUR_MS) for start, end in holes]):
            try:
                if differs := self._sum_error(span):
                    state.disagreements.append((span.start_ms, span.end_ms, str(differs)))
            except OutsideError as error:
                if self._client.is_cancelled:
                    raise
                state.compared_ms = span.start_ms
                sentence = f"Funding of {self._name} could not be compared with the exchange's sum: {error}"
                state.disagreements.append((span.start_ms, span.start_ms, sentence))
                return

    def _sum_error(self, span: Span) -> FundingSumError | None:
        exchange = self._client.call(
            self._client.live,
            "get_funding_rate_value",
            {"instrument_name": self._name, "start_timestamp": span.start_ms, "end_timestamp": span.end_ms},
            lambda body: _number_decoder.decode(body).unwrap(),
        )
        try:
            require_equal_sums(self._name, span, self.rows.values(), exchange)
        except FundingSumError:
            self.read(regrid(range(step_of(span.start_ms, HOUR_MS), step_of(span.end_ms, HOUR_MS) + 1)))
        try:
            require_equal_sums(self._name, span, self.rows.values(), exchange)
        except FundingSumError as error:
            return error
        return None


def sum_spans(first_ms: int, last_ms: int, holes: Iterable[tuple[int, int]]) -> list[Span]:
    """Spans between the holes whose sums can be compared, each at most SUM_HOURS long."""
    spans, start_ms = [], first_ms
    for hole_first, hole_last in [*sorted(holes), (last_ms + HOUR_MS, last_ms + HOUR_MS)]:
        end_ms = min(hole_first - HOUR_MS, last_ms)
        while end_ms - start_ms >= MIN_SUM_HOURS * HOUR_MS:
            stop_ms = min(start_ms + SUM_HOURS * HOUR_MS, end_ms)
            spans.append(Span(start_ms, stop_ms))
            start_ms = stop_ms
        start_ms = max(hole_last + HOUR_MS, start_ms)
    return spans


def require_equal_sums(instrument_name: str, span: Span, rows: Iterable[Row], exchange: float) -> None:
    """Raise FundingSumError unless the rates of `span` add up to the exchange's own sum.

    Whether the exchange counts the rows at the ends of the span is not documented, so either is accepted.
    """
    inside = [row for row in rows if span.start_ms <= row["timestamp"] <= span.end_ms]
    rates = [row["interest_1h"] for row in inside]
    at_start = [row["interest_1h"] for row in inside if row["timestamp"] == span.start_ms]
    at_end = [row["interest_1h"] for row in inside if row["timestamp"] == span.end_ms]
    total = fsum(rates)
    sums = [
        total - fsum(at_start),
        total - fsum(at_end),
        total,
        total - fsum(at_start) - fsum(at_end),
    ]
    tolerance = 1e-9 + 1e-6 * fsum(map(abs, rates))
    if all(abs(each - exchange) > tolerance for each in sums):
        raise FundingSumError(instrument_name, span, sums[0], exchange)
