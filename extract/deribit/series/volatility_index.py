"""Candles of the volatility index (DVOL): one per step of the resolution.

`get_volatility_index_data` pages backwards: `continuation` is the end of the next page. The size of a page is not
documented, so only the continuation is relied on, and what is missing is requested again on its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from extract.deribit.series.cadence import DAY_MS, MINUTE_MS, Cadence
from extract.deribit.series.client import SeriesClient
from extract.deribit.series.decode import RejectedRecord, SeriesPage, decode_candles, require_time
from extract.deribit.series.grid import (
    FRUITLESS_ANSWERS,
    CursorStuckError,
    GridPager,
    Span,
    Steps,
    group_ranges,
    span_of,
    step_of,
    steps_of,
)
from extract.deribit.series.schema import VOLATILITY_INDEX, Row
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
from extract.errors import UsageError

HISTORY_MS = 1_609_459_200_000
"""2021-01-01: the index has no earlier candle; the first one is of 2021-03-24."""
WINDOW_STEPS = 100_000
MINUTES_WINDOW_STEPS = 10_000
"""Candles of one batch, in pages of the exchange's size: eleven years of hours, a week of minutes."""
REREAD_STEPS = 500
"""Candles before the newest one that are read again with the next request: half a page."""
STEP_MS = {"60": MINUTE_MS, "3600": 60 * MINUTE_MS, "43200": 720 * MINUTE_MS, "1D": DAY_MS}
"""Milliseconds of each resolution. Seconds are not offered: 200 M candles."""


def cadence(resolution: str) -> Cadence:
    """A candle is available after its end."""
    step_ms = step_ms_of(resolution)
    return Cadence(step_ms, delay_ms=step_ms + MINUTE_MS, retry_ms=min(step_ms, 5 * MINUTE_MS))


def step_ms_of(resolution: str) -> int:
    """Milliseconds of a resolution. Raises UsageError for an unknown one."""
    if resolution not in STEP_MS:
        raise UsageError(
            f"{resolution!r} is not a resolution of the volatility index; use {', '.join(STEP_MS)}."
        )
    return STEP_MS[resolution]


def window_steps(step_ms: int) -> int:
    """Candles of one batch."""
    return WINDOW_STEPS if step_ms > MINUTE_MS else MINUTES_WINDOW_STEPS


def fetch_volatility_index(
    client: SeriesClient,
    currency: str,
    resolution: str,
    state: SeriesState,
    now_ms: int,
    *,
    since_ms: int = HISTORY_MS,
    again: bool = False,
) -> Iterator[SeriesBatch]:
    """Yield the closed candles that are new or restated, oldest first: nothing if none can be new.

    Each batch is complete up to its `proven_ms`. With `again` the whole history is read. Raises UsageError, the errors
    of `client`, and CursorStuckError.
    """
    rhythm, step_ms = cadence(resolution), step_ms_of(resolution)
    if not again and not rhythm.is_due(now_ms, state.proven_ms, state.requested_ms):
        return
    last = rhythm.last_due_ms(now_ms) // step_ms
    first = -(-since_ms // step_ms)
    if not again and state.proven_ms is not None:
        begin = step_of(state.first_ms or 0, step_ms)
        first = max(step_of(state.proven_ms, step_ms) - REREAD_STEPS, begin)
    walk = _Walk(client, currency, resolution, step_ms, now_ms)
    if state.proven_ms is None and not walk.has_candles(first, last):
        state = state.copy()
        advance(state, (), searched_ms=max(last * step_ms, state.searched_ms or 0))
        state.requested_ms = now_ms
        yield SeriesBatch(VOLATILITY_INDEX.to_table([]), state)
        return
    heals = again or (state.healed_ms or 0) + DAY_MS <= now_ms
    holes = [hole for hole in hole_steps(state, step_ms) if heals and hole[1] < first]
    groups = group_ranges(holes, window_steps(step_ms))
    windows = [*groups, *_windows(first, last, step_ms, by_year=again)]
    for number, window in enumerate(windows, 1):
        state = state.copy()
        if number == len(windows):
            state.requested_ms = now_ms
            state.healed_ms = now_ms if heals else state.healed_ms
        # Around holes, candles are read in part, and not compared.
        complete_from = window[1] + 1 if number <= len(groups) else window[0]
        is_begun = state.first_ms is not None
        batch = walk.read(state, *window, complete_from, heals=heals)
        if not is_begun and number > 1:
            walk.require_begin(first, state)
        yield batch


def _windows(first: int, last: int, step_ms: int, *, by_year: bool) -> Iterator[Steps]:
    """Steps of each batch. With `by_year` one per year, so that it can be compared with what is loaded of that year.

    A year of minutes is too large for that: of them, only recent days are compared.
    """
    while first <= last:
        end = first + window_steps(step_ms) - 1
        if by_year and step_ms > MINUTE_MS:
            year = datetime.fromtimestamp(first * step_ms / 1000, UTC).year
            end = int(datetime(year + 1, 1, 1, tzinfo=UTC).timestamp()) * 1000 // step_ms - 1
        yield first, min(end, last)
        first = end + 1


class _Walk:
    """Requests of the candles of one currency and resolution."""

    def __init__(
        self, client: SeriesClient, currency: str, resolution: str, step_ms: int, now_ms: int
    ) -> None:
        self._client = client
        self._requested = {"currency": currency, "resolution": resolution}
        self._step_ms = step_ms
        self._now_ms = now_ms

    def has_candles(self, first: int, last: int) -> bool:
        """Whether there is any candle from step `first` to `last`; most currencies have none at all."""
        span = span_of(first, last, self._step_ms)
        pages = (self._request(span) for _ in range(FRUITLESS_ANSWERS))
        return first <= last and any(page.records or page.continuation is not None for page in pages)

    def require_begin(self, first: int, state: SeriesState) -> None:
        """Raise CursorStuckError if there is a candle before the first row, where earlier windows had none."""
        if state.first_ms is None:
            return
        last = step_of(state.first_ms, self._step_ms) - 1
        pages = (self._request(span_of(first, last, self._step_ms)) for _ in range(FRUITLESS_ANSWERS))
        if any(first <= step_of(_time(row), self._step_ms) <= last for page in pages for row in page.rows):
            raise CursorStuckError(
                f"Candles before {state.first_ms} ms were not returned at first, and then they were."
            )

    def _request(self, span: Span) -> SeriesPage:
        times: dict[str, str | int] = {
            "start_timestamp": max(span.start_ms, 0),
            "end_timestamp": span.end_ms,
        }
        return self._client.call(
            self._client.live,
            "get_volatility_index_data",
            {**self._requested, **times},
            lambda body: decode_candles(VOLATILITY_INDEX, body, self._check, **self._requested),
        )

    def _check(self, row: Row) -> None:
        require_time(_time(row), EPOCH_MS, self._now_ms + self._step_ms)

    def read(
        self, state: SeriesState, first: int, last: int, complete_from: int, *, heals: bool
    ) -> SeriesBatch:
        """Read the candles from step `first` to `last`, and compare those since `complete_from`; changes `state`."""
        unknown = take_more_holes(state, first, last, self._step_ms)
        loaded, holes = loaded_steps(state, self._step_ms, unknown), hole_steps(state, self._step_ms)
        known = steps_of(loaded if heals else [*loaded, *holes])
        pager = GridPager([(first, last)], self._step_ms, window_steps(self._step_ms), known.__contains__)
        rows: dict[Any, Row] = {}
        rejected: list[RejectedRecord] = []
        while span := pager.request:
            page = self._request(span)
            for row in page.rows:
                if first <= step_of(_time(row), self._step_ms) <= last:
                    rows[VOLATILITY_INDEX.key_of(row)] = row
            rejected += [each for each in page.rejected if each not in rejected]
            assert page.continuation is None or isinstance(page.continuation, int)
            pager.feed((_time(row) for row in page.rows), page.continuation)
        remaining = missing_steps(loaded, {step_of(_time(row), self._step_ms) for row in rows.values()})
        changed = select_changed(
            state, rows.values(), _time, complete_from_ms=complete_from * self._step_ms, step_ms=self._step_ms
        )
        advance(state, map(_time, rows.values()), searched_ms=last * self._step_ms)
        set_holes(state, remaining, self._step_ms)
        forget_old_days(state)
        return SeriesBatch(
            VOLATILITY_INDEX.to_table(changed), state, grid_gaps(state, self._step_ms), rejected
        )


def _time(row: Row) -> int:
    return int(row["timestamp"])
