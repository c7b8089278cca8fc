"""Prefetch items of a generator in a background thread."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

T = TypeVar("T")


def _same(item: T) -> T:
    return item


class _End:
    """Marks the end of the items."""


POLL_S = 0.1


def prefetch(
    items: Generator[T],
    *,
    depth: int,
    cancel: Callable[[], None],
    spill: Callable[[T], Callable[[], T]] | None = None,
    waits_after: Callable[[T], bool] = lambda item: False,
) -> Generator[T]:
    """Yield `items` in their order while a thread produces up to `depth` of them in advance. Raises what they raise.

    `spill` stores an item outside of memory and returns a function that reads it again; it is called for all items that
    wait but the first. After an item for which `waits_after` is true, the next one is produced only once that item has
    been taken. Closing the generator calls `cancel`, which has to end all waits within `items`, and then closes
    `items`.
    """
    ready: queue.Queue[Callable[[], T] | _End] = queue.Queue(depth)
    should_stop = threading.Event()

    def put(item: Callable[[], T] | _End) -> None:
        while not should_stop.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=POLL_S)
                return

    def produce() -> None:
        try:
            for item in items:
                put(spill(item) if spill and not ready.empty() else partial(_same, item))
                while waits_after(item) and not ready.empty() and not should_stop.is_set():
                    should_stop.wait(POLL_S)
                if should_stop.is_set():
                    items.close()
        finally:
            put(_End())

    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        producer = pool.submit(produce)
        try:
            while not isinstance(item := ready.get(), _End):
                yield item()
        except BaseException:
            should_stop.set()
            cancel()
            raise
        producer.result()
