"""An iterator that works ahead: its items are made in a thread while the ones before are taken care of."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_END = object()
LOOK_S = 0.1


def prefetch(items: Generator[T], *, depth: int, cancel: Callable[[], None]) -> Generator[T]:
    """`items` in their order, up to `depth` of them made before they are asked for; what they raise is raised here.

    Whoever stops asking has `cancel` called, which is to end what the making waits for, and `items` closed.
    """
    made: queue.Queue[object] = queue.Queue(depth)
    should_stop = threading.Event()

    def hand_over(item: object) -> None:
        while not should_stop.is_set():
            with contextlib.suppress(queue.Full):
                made.put(item, timeout=LOOK_S)
                return

    def make() -> None:
        try:
            for item in items:
                hand_over(item)
                if should_stop.is_set():
                    items.close()
        finally:
            hand_over(_END)

    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        making = pool.submit(make)
        try:
            while (item := made.get()) is not _END:
                yield item
        except BaseException:
            should_stop.set()
            cancel()
            raise
        making.result()
