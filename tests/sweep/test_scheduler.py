"""The scheduler bounds concurrency, refills freed threads and cancels everything on the first error."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

import pytest

from extract.sweep.scheduler import Task, run_all

WAIT_S = 20.0


def doubled(number: int) -> Task[int, int]:
    return Task(lambda: number, lambda result: 2 * result)


def test_every_task_runs_once_and_its_accepted_result_is_yielded() -> None:
    tasks = map(doubled, range(50))
    assert sorted(run_all(lambda: next(tasks, None), in_flight=4, cancel=pytest.fail)) == list(
        range(0, 100, 2)
    )


def test_no_more_than_in_flight_tasks_run_at_once() -> None:
    lock, running, most = threading.Lock(), 0, 0
    barrier = threading.Barrier(3)

    def run() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        barrier.wait(WAIT_S)
        with lock:
            running -= 1

    tasks = (Task(run, lambda result: result) for _ in range(9))
    list(run_all(lambda: next(tasks, None), in_flight=3, cancel=pytest.fail))
    assert most == 3


def test_task_that_depends_on_an_accepted_result_starts_after_it() -> None:
    """`next_task` returning None only means that nothing can start yet."""
    ready = [1]

    def next_task() -> Task[int, int] | None:
        return Task(partial(int, ready.pop()), accept) if ready else None

    def accept(number: int) -> int:
        if number < 4:
            ready.append(number + 1)
        return number

    assert list(run_all(next_task, in_flight=2, cancel=pytest.fail)) == [1, 2, 3, 4]


def test_freed_thread_is_busy_before_the_value_is_yielded() -> None:
    second_started = threading.Event()
    tasks = iter([doubled(1), Task(second_started.set, lambda result: 0)])
    values = run_all(lambda: next(tasks, None), in_flight=1, cancel=pytest.fail)
    assert next(values) == 2
    assert second_started.wait(WAIT_S)
    assert list(values) == [0]


@pytest.mark.parametrize("stop", ["error in run", "error in accept", "closed by the caller"])
def test_first_error_cancels_running_tasks_and_starts_no_others(stop: str) -> None:
    """A task that waits is ended by `cancel`; the error is raised after it has ended, and none is queued."""
    waiting, cancelled, ended = threading.Event(), threading.Event(), threading.Event()
    started = count()

    def wait_for_cancel() -> None:
        waiting.set()
        assert cancelled.wait(WAIT_S)
        ended.set()

    def fail(*_: object) -> None:
        raise ValueError("first")

    quick: dict[str, Callable[[], Task[Any, None]]] = {
        "error in run": lambda: Task(lambda: fail(waiting.wait(WAIT_S)), lambda result: None),
        "error in accept": lambda: Task(lambda: waiting.wait(WAIT_S), fail),
        "closed by the caller": lambda: Task(lambda: waiting.wait(WAIT_S), lambda result: None),
    }

    def next_task() -> Task[Any, None]:
        return quick[stop]() if next(started) == 0 else Task(wait_for_cancel, lambda result: None)

    values = run_all(next_task, in_flight=2, cancel=cancelled.set)
    if stop == "closed by the caller":
        next(values)
        values.close()
    else:
        with pytest.raises(ValueError, match="first"):
            next(values)
    assert ended.is_set()
    assert next(started) <= 3
