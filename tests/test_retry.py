"""Waiting: exact delays, never less than asked for, bounded in number and time; one rate over all threads."""

from __future__ import annotations

import random
import threading

import pytest

from extract.errors import FinalError, RetriableError
from extract.retry import RateLimiter, Retrier, RetryPolicy


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.slept: list[float] = []
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.slept.append(seconds)
            self.now_s += seconds


class Top(random.Random):
    """Jitter at its upper end."""

    def uniform(self, a: float, b: float) -> float:
        return b


def failing(times: int, **error: float):
    left = iter(range(times))

    def call() -> str:
        for _ in left:
            raise RetriableError("no luck", **error)
        return "answer"

    return call


def test_the_exact_delays() -> None:
    """Doubling from a quarter of a second up to the longest wait."""
    clock = Clock()
    retrier = Retrier(RetryPolicy(longest_s=2.0), clock.sleep, clock, Top())
    assert retrier.run(failing(6)) == "answer"
    assert clock.slept == [0.25, 0.5, 1.0, 2.0, 2.0, 2.0]


def test_jitter_takes_at_most_half_off() -> None:
    policy, rng = RetryPolicy(), random.Random(5)
    waits = [policy.wait_s(3, None, rng) for _ in range(200)]
    assert min(waits) >= 0.5
    assert max(waits) <= 1.0
    assert max(waits) - min(waits) > 0.3


def test_never_less_than_the_other_side_asks_for() -> None:
    clock = Clock()
    Retrier(RetryPolicy(), clock.sleep, clock, Top()).run(failing(3, retry_after_s=7.5))
    assert clock.slept == [7.5, 7.5, 7.5]


def test_attempts_are_bounded_and_told() -> None:
    clock = Clock()
    with pytest.raises(RetriableError, match=r"no luck \(tried 3 times\)"):
        Retrier(RetryPolicy(attempts=3), clock.sleep, clock, Top()).run(failing(9))
    assert len(clock.slept) == 2


def test_total_time_is_bounded_before_the_wait_that_would_pass_it() -> None:
    clock = Clock()
    with pytest.raises(RetriableError, match=r"tried 1 time\)"):
        Retrier(RetryPolicy(total_s=5.0), clock.sleep, clock, Top()).run(failing(9, retry_after_s=86_400))
    assert clock.slept == []


def test_a_final_error_is_not_tried_again() -> None:
    calls = []

    def call() -> None:
        calls.append(1)
        raise FinalError("no")

    with pytest.raises(FinalError):
        Retrier().run(call)
    assert len(calls) == 1


def test_a_burst_then_the_rate() -> None:
    """A second's worth at once, one more, then evenly."""
    clock = Clock()
    limiter = RateLimiter(4, sleep=clock.sleep, clock=clock)
    for _ in range(9):
        limiter.acquire()
    assert clock.slept == pytest.approx([0.25] * 4)


def test_the_rate_holds_over_threads() -> None:
    """However many ask: the turns of eight threads lie no closer than the rate, but for one burst."""
    clock, turns, lock = Clock(), [], threading.Lock()
    clock.sleep = lambda seconds: turns_of(seconds)

    def turns_of(seconds: float) -> None:
        with lock:
            turns.append(seconds)

    limiter = RateLimiter(10, sleep=clock.sleep, clock=clock)
    threads = [threading.Thread(target=lambda: [limiter.acquire() for _ in range(5)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    # The clock stands still: 11 turns were due, each of the others is a tenth of a second after another.
    assert sorted(turns) == pytest.approx([0.1 * (n + 1) for n in range(40 - 11)])


def test_a_pause_holds_for_those_who_wait_already() -> None:
    """Who slept towards a turn that falls into a pause takes another one behind it, in the rate again."""
    clock = Clock()
    limiter = RateLimiter(1, sleep=clock.sleep, clock=clock)
    limiter.acquire()
    limiter.acquire()
    began_s, plain = clock.now_s, clock.sleep

    def sleep(seconds: float) -> None:
        plain(seconds)
        if clock.now_s - began_s < 2:
            limiter.pause(10)

    limiter._sleep = sleep
    limiter.acquire()
    assert clock.now_s - began_s >= 10
