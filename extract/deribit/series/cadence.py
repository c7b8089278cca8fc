"""Decide when a series can have something new, so that an idle run sends no request."""

from __future__ import annotations

from dataclasses import dataclass

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS


@dataclass(frozen=True)
class Cadence:
    """A row is published every `period_ms`, at `offset_ms` of the period, and is available `delay_ms` later.

    A row that is late is requested again after `retry_ms`, then after waits that grow with its lateness, but at least
    once a day.
    """

    period_ms: int
    delay_ms: int
    offset_ms: int = 0
    retry_ms: int = 5 * MINUTE_MS

    def last_due_ms(self, now_ms: int) -> int:
        """Time of the newest row that should be available."""
        return (now_ms - self.delay_ms - self.offset_ms) // self.period_ms * self.period_ms + self.offset_ms

    def next_request_ms(self, last_row_ms: int | None, requested_ms: int | None) -> int:
        """The earliest time of the next request, given the newest loaded row and the time of the last request."""
        if requested_ms is None:
            return 0
        if last_row_ms is None:
            return requested_ms + DAY_MS
        available_ms = self.last_due_ms(last_row_ms + self.delay_ms) + self.period_ms + self.delay_ms
        if requested_ms < available_ms:
            return available_ms
        lateness_ms = requested_ms - available_ms
        return requested_ms + min(max(self.retry_ms, lateness_ms // 2), DAY_MS)

    def is_due(self, now_ms: int, last_row_ms: int | None, requested_ms: int | None) -> bool:
        """Whether to request the series now. Without any row it is requested once a day."""
        return now_ms >= self.next_request_ms(last_row_ms, requested_ms)


HOURLY = Cadence(HOUR_MS, delay_ms=MINUTE_MS)
"""Funding rates, candles of an hour and book summaries."""
EIGHT_O_CLOCK = Cadence(DAY_MS, delay_ms=10 * MINUTE_MS, offset_ms=8 * HOUR_MS)
"""Deliveries and settlements: every day at 08:00 UTC."""
