"""Limit the rate of requests over all threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class RateLimiter:
    """A token bucket shared by all threads: `per_second` on average, bursts of at most one second's worth."""

    def __init__(
        self,
        per_second: float,
        *,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval_s = 1.0 / per_second
        self._burst_s = max(1.0, self._interval_s)
        self._sleep = sleep
        self._clock = clock
        self._lock = threading.Lock()
        self._next_s = clock() - self._burst_s
        self._not_before_s = self._next_s

    def acquire(self) -> None:
        """Wait for the next free turn. A turn that falls into a pause is replaced by one after the pause."""
        while True:
            now, turn = self._reserve_turn()
            if turn > now:
                self._sleep(turn - now)
            if turn >= self._not_before_s:
                return

    def _reserve_turn(self) -> tuple[float, float]:
        with self._lock:
            now = self._clock()
            turn = max(self._next_s, now - self._burst_s)
            self._next_s = turn + self._interval_s
            return now, turn

    def pause(self, seconds: float) -> None:
        """Stop all threads from acquiring a turn for `seconds`, as a `Retry-After` header demands."""
        with self._lock:
            until_s = self._clock() + seconds
            self._not_before_s = max(self._not_before_s, until_s)
            self._next_s = max(self._next_s, until_s)
