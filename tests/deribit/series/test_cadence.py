"""A series is requested only when it can have something new."""

from __future__ import annotations

from itertools import pairwise

from extract.deribit.series.cadence import DAY_MS, EIGHT_O_CLOCK, HOUR_MS, HOURLY, MINUTE_MS
from extract.deribit.series.volatility_index import cadence

NOON = 20_000 * DAY_MS + 12 * HOUR_MS


def test_first_request_is_due_at_once() -> None:
    assert HOURLY.is_due(NOON, None, None)


def test_hourly_row_is_due_a_minute_after_the_next_hour() -> None:
    last, requested = NOON, NOON + MINUTE_MS
    assert not HOURLY.is_due(NOON + HOUR_MS + MINUTE_MS - 1, last, requested)
    assert HOURLY.is_due(NOON + HOUR_MS + MINUTE_MS, last, requested)


def test_delivery_is_due_ten_minutes_after_eight() -> None:
    """Also if the newest row is some milliseconds after 08:00."""
    last = NOON - 4 * HOUR_MS + 23
    assert EIGHT_O_CLOCK.next_request_ms(last, NOON) == NOON + 20 * HOUR_MS + 10 * MINUTE_MS


def test_late_row_is_requested_with_growing_waits_but_at_least_daily() -> None:
    """A perpetual or an index that ended costs about one request a day."""
    last, at_ms, requests = NOON, NOON + MINUTE_MS, []
    while at_ms < NOON + 30 * DAY_MS:
        at_ms = HOURLY.next_request_ms(last, at_ms)
        requests.append(at_ms)
    waits = [after - before for before, after in pairwise(requests)]
    assert waits[0] == HOURLY.retry_ms
    assert waits == sorted(waits)
    assert waits[-1] == DAY_MS
    assert len(requests) < 50


def test_key_without_rows_is_requested_once_a_day() -> None:
    assert HOURLY.next_request_ms(None, NOON) == NOON + DAY_MS


def test_candle_is_due_after_its_end() -> None:
    """The candle of 11:00 is the last one that is closed at noon."""
    hourly = cadence("3600")
    assert hourly.last_due_ms(NOON + MINUTE_MS) == NOON - HOUR_MS
    assert hourly.next_request_ms(NOON - HOUR_MS, NOON + MINUTE_MS) == NOON + HOUR_MS + MINUTE_MS
