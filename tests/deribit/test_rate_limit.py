"""The rate limiter spaces requests of all threads evenly, after one burst."""

from __future__ import annotations

import threading

import pytest

from extract.deribit.rate_limit import RateLimiter
from tests.support.clock import Clock


def test_burst_is_followed_by_the_rate() -> None:
    """A second's worth of turns at once, one more, then evenly spaced."""
    clock = Clock()
    limiter = RateLimiter(4, sleep=clock.sleep, clock=clock)
    for _ in range(9):
        limiter.acquire()
    assert clock.slept == pytest.approx([0.25] * 4)


def test_rate_is_shared_by_all_threads() -> None:
    """Turns of eight threads are no closer together than the rate, except for one burst."""
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
    # The clock does not advance: 11 turns were free, each of the others is a tenth of a second after another.
    assert sorted(turns) == pytest.approx([0.1 * (n + 1) for n in range(40 - 11)])


def test_pause_delays_threads_that_already_wait() -> None:
    """A thread that sleeps towards a turn within the pause gets another turn after it."""
    clock = Clock()
    pauses = iter([10.0])

    def sleep_and_pause(seconds: float) -> None:
        clock.sleep(seconds)
        if (pause_s := next(pauses, None)) is not None:
            limiter.pause(pause_s)

    limiter = RateLimiter(1, sleep=sleep_and_pause, clock=clock)
    limiter.acquire()
    limiter.acquire()
    began_s = clock.now_s
    limiter.acquire()
    assert clock.now_s - began_s >= 10
