"""A clock for tests of waits: time passes only by sleeping."""

from __future__ import annotations

import threading


class Clock:
    """Callable like time.monotonic; `sleep` advances it and records each wait in `slept`."""

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
