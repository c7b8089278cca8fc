"""Retry calls that raise RetriableError, with exponential waits, bounded in attempts and in total time.

A failure that outlasts a run is retried by later runs, after growing waits.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type

from extract.errors import RetriableError

T = TypeVar("T")
FIRST_WAIT_MS = 5 * 60_000


def next_attempt_ms(since_ms: int, now_ms: int, *, longest_ms: int) -> int:
    """When a later run tries again what has failed since `since_ms`: after waits that double, from five minutes on."""
    return now_ms + min(max(FIRST_WAIT_MS, now_ms - since_ms), longest_ms)


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential waits with jitter: from `first_s` to `longest_s`, at most `attempts` calls within `total_s`."""

    attempts: int = 12
    total_s: float = 300.0
    first_s: float = 0.25
    longest_s: float = 20.0

    def wait_s(self, attempt: int, retry_after_s: float | None, rng: random.Random) -> float:
        """Seconds between `attempt`, counted from 1, and the next one; never less than `retry_after_s`."""
        doublings = min(attempt - 1, 30)
        ceiling_s = min(self.longest_s, self.first_s * 2.0**doublings)
        return max(retry_after_s or 0.0, ceiling_s * rng.uniform(0.5, 1.0))


@dataclass
class Retrier:
    """Retries a call that raises RetriableError as its policy allows; every other error is raised at once.

    To make the waits cancellable, pass the `wait` method of a `threading.Event` as `sleep`.
    """

    policy: RetryPolicy = field(default_factory=RetryPolicy)
    sleep: Callable[[float], object] = time.sleep
    clock: Callable[[], float] = time.monotonic
    rng: random.Random = field(default_factory=random.Random)

    def run(self, call: Callable[[], T], on_retry: Callable[[float], None] = lambda wait_s: None) -> T:
        """Return what `call` returns. Raises RetriableError, with the number of attempts, after the last one.

        `on_retry` receives the seconds of each wait before it begins.
        """
        started_s = self.clock()

        def wait_s(state: RetryCallState) -> float:
            return self.policy.wait_s(state.attempt_number, _error_of(state).retry_after_s, self.rng)

        def is_over(state: RetryCallState) -> bool:
            spent_s = self.clock() - started_s + state.upcoming_sleep
            return state.attempt_number >= self.policy.attempts or spent_s > self.policy.total_s

        def sleep(seconds: float) -> None:
            self.sleep(seconds)

        def give_up(state: RetryCallState) -> T:
            error, attempts = _error_of(state), state.attempt_number
            tries = f"{attempts} time{'s' if attempts > 1 else ''}"
            raise RetriableError(f"{error} (tried {tries}); try again later.") from error

        return Retrying(
            retry=retry_if_exception_type(RetriableError),
            wait=wait_s,
            stop=is_over,
            before_sleep=lambda state: on_retry(state.upcoming_sleep),
            sleep=sleep,
            retry_error_callback=give_up,
        )(call)


def _error_of(state: RetryCallState) -> RetriableError:
    assert state.outcome is not None
    error = state.outcome.exception()
    assert isinstance(error, RetriableError)
    return error
