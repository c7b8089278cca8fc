"""When a run is to end before all is done: after a time, or when asked. It ends between windows, never within one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_TOLD = b"SIGTERM: the window at work is finished and loaded; a second SIGTERM ends the run at once.\n"


class StopSignal:
    """Due once `after_s` seconds have passed, or once asked for; `reason` says which of the two. Never, by default."""

    def __init__(self, after_s: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._after_s = after_s
        self._at_s = None if after_s is None else clock() + after_s
        self._asked: str | None = None

    def ask(self, reason: str) -> None:
        """The run is to end with the window at work. Safe in a signal handler."""
        self._asked = reason

    @property
    def is_requested(self) -> bool:
        return self.reason is not None

    @property
    def reason(self) -> str | None:
        """`after 50 minutes`, or what it was asked for with; None while it is not due."""
        if self._asked is None and self._at_s is not None and self._clock() >= self._at_s:
            assert self._after_s is not None
            return f"after {round(self._after_s / 60, 2):g} minutes"
        return self._asked


@contextmanager
def stop_on_sigterm(stop: StopSignal) -> Iterator[None]:
    """The first SIGTERM asks for the stop, a second ends the process at once, as SIGINT does. In the main thread."""

    def ask(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        stop.ask("on SIGTERM")
        os.write(2, _TOLD)

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
