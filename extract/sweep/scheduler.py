"""Run tasks in threads, a bounded number at once, and cancel all of them on the first error that no task handles."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

from extract.errors import TapeError

R = TypeVar("R")
T = TypeVar("T")


@dataclass(frozen=True)
class Task(Generic[R, T]):
    """Work for a thread: `run` there, then `accept` its result in the thread that iterates over `run_all`.

    `handle` receives a TapeError of `run` in that thread; without it, the error ends everything.
    """

    run: Callable[[], R]
    accept: Callable[[R], T]
    handle: Callable[[TapeError], None] | None = None


def run_all(
    next_task: Callable[[], Task[R, T] | None], *, in_flight: int, cancel: Callable[[], None]
) -> Generator[T]:
    """What `accept` returns for each task, in the order in which they finish.

    `next_task` returns None while there is nothing to start; it is called again after each accepted result, and the
    freed threads are busy again before a value is yielded. The first error that is not handled, or closing the
    generator, calls `cancel`, which has to end the running tasks, discards those not started, and raises the error.
    """
    under_way: dict[Future[R], Task[R, T]] = {}
    with ThreadPoolExecutor(in_flight, thread_name_prefix="deribit") as pool:
        try:
            values: list[T] = []
            while True:
                while len(under_way) < in_flight and (task := next_task()):
                    under_way[pool.submit(task.run)] = task
                yield from values
                if not under_way:
                    return
                done, _ = wait(under_way, return_when=FIRST_COMPLETED)
                values = []
                for future in done:
                    task, error = under_way.pop(future), future.exception()
                    if task.handle and isinstance(error, TapeError):
                        task.handle(error)
                    else:
                        values.append(task.accept(future.result()))
        except BaseException:
            cancel()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
