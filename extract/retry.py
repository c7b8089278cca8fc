"""Whether to try again, how long to wait, and the rate at which anything is asked at all."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from extract.errors import RetriableError

T = TypeVar("T")


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential waits with jitter, bounded in number and in total time."""

    attempts: int = 12
    total_s: float = 300.0
    first_s: float = 0.25
    longest_s: float = 20.0

    def wait_s(self, attempt: int, retry_after_s: float | None, rng: random.Random) -> float:
        """Seconds before attempt `attempt + 1`; never less than the other side asked for."""
        ceiling = min(self.longest_s, self.first_s * 2 ** (attempt - 1))
        return max(retry_after_s or 0.0, ceiling * rng.uniform(0.5, 1.0))


@dataclass
class Retrier:
    """Runs a call until it succeeds, fails finally, or the policy's bounds are met."""

    policy: RetryPolicy = field(default_factory=RetryPolicy)
    sleep: Callable[[float], object] = time.sleep
    clock: Callable[[], float] = time.monotonic
    rng: random.Random = field(default_factory=random.Random)

    def run(self, call: Callable[[], T], on_retry: Callable[[float], None] = lambda wait_s: None) -> T:
        """What `call` returns; the last RetriableError where the bounds are met."""
        started = self.clock()
        attempt = 0
        while True:
            attempt += 1
            try:
                return call()
            except RetriableError as error:
                wait_s = self.policy.wait_s(attempt, error.retry_after_s, self.rng)
                over = self.clock() - started + wait_s > self.policy.total_s
                if attempt >= self.policy.attempts or over:
                    tries = f"{attempt} time{'s' if attempt > 1 else ''}"
                    raise RetriableError(f"{error} (tried {tries}); try again later.") from error
            on_retry(wait_s)
            self.sleep(wait_s)


class RateLimiter:
    """A token bucket over all threads: `per_second` on average, bursts of at most one second's worth."""

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
        """Waits for the next turn; a turn that falls into a pause is given up for one after it."""
        while True:
            now, turn = self._take_turn()
            if turn > now:
                self._sleep(turn - now)
            if turn >= self._not_before_s:
                return

    def _take_turn(self) -> tuple[float, float]:
        with self._lock:
            now = self._clock()
            turn = max(self._next_s, now - self._burst_s)
            self._next_s = turn + self._interval_s
            return now, turn

    def pause(self, seconds: float) -> None:
        """No request of any thread for `seconds`: the exchange asked for less."""
        with self._lock:
            until_s = self._clock() + seconds
            self._not_before_s = max(self._not_before_s, until_s)
            self._next_s = max(self._next_s, until_s)
