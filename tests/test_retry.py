"""Retries wait exactly as the policy states, bounded in number and in total time."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest

from extract.errors import FinalError, RetriableError
from extract.retry import Retrier, RetryPolicy
from tests.support.clock import Clock


class Top(random.Random):
    """Jitter at its upper end."""

    def uniform(self, a: float, b: float) -> float:
        return b


def failing(times: int, **error: float) -> Callable[[], str]:
    left = iter(range(times))

    def call() -> str:
        for _ in left:
            raise RetriableError("no luck", **error)
        return "answer"

    return call


def test_waits_double_up_to_the_longest() -> None:
    """From a quarter of a second to `longest_s`, with jitter at its upper end."""
    clock = Clock()
    retrier = Retrier(RetryPolicy(longest_s=2.0), clock.sleep, clock, Top())
    assert retrier.run(failing(6)) == "answer"
    assert clock.slept == [0.25, 0.5, 1.0, 2.0, 2.0, 2.0]


def test_jitter_shortens_a_wait_by_at_most_half() -> None:
    policy, rng = RetryPolicy(), random.Random(5)
    waits = [policy.wait_s(3, None, rng) for _ in range(200)]
    assert min(waits) >= 0.5
    assert max(waits) <= 1.0
    assert max(waits) - min(waits) > 0.3


def test_wait_is_never_shorter_than_retry_after() -> None:
    clock = Clock()
    Retrier(RetryPolicy(), clock.sleep, clock, Top()).run(failing(3, retry_after_s=7.5))
    assert clock.slept == [7.5, 7.5, 7.5]


def test_attempts_are_bounded_and_reported() -> None:
    clock = Clock()
    with pytest.raises(RetriableError, match=r"no luck \(tried 3 times\)"):
        Retrier(RetryPolicy(attempts=3), clock.sleep, clock, Top()).run(failing(9))
    assert len(clock.slept) == 2


def test_wait_that_would_exceed_the_total_time_is_not_begun() -> None:
    clock = Clock()
    with pytest.raises(RetriableError, match=r"tried 1 time\)"):
        Retrier(RetryPolicy(total_s=5.0), clock.sleep, clock, Top()).run(failing(9, retry_after_s=86_400))
    assert clock.slept == []


def test_final_error_is_not_retried() -> None:
    calls = []

    def call() -> None:
        calls.append(1)
        raise FinalError("no")

    with pytest.raises(FinalError):
        Retrier().run(call)
    assert len(calls) == 1


def test_waits_of_very_many_attempts_do_not_overflow() -> None:
    clock = Clock()
    Retrier(RetryPolicy(attempts=5_000, total_s=1e9), clock.sleep, clock, Top()).run(failing(1_500))
    assert max(clock.slept) == RetryPolicy().longest_s


def test_wait_can_be_cancelled_by_an_event() -> None:
    """The wait of a day ends at once; the caller can stop at the next attempt."""
    cancelled = threading.Event()
    cancelled.set()
    retrier = Retrier(RetryPolicy(total_s=1e6), sleep=cancelled.wait)
    assert retrier.run(failing(1, retry_after_s=86_400)) == "answer"
