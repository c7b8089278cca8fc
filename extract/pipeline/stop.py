"""Stop a run early, after a time limit or on SIGTERM, at a window boundary."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from extract.errors import OutsideError

GRACE_S = 20.0
"""Seconds that requests under way have after a stop: a service manager may kill the process 30 s after SIGTERM."""
END_S = 32.0
"""Seconds after SIGTERM at which a process that still runs is ended."""
POLL_S = 0.2

_SIGTERM_NOTICE = (
    b"SIGTERM: finishing and loading the current window; a second SIGTERM ends the run at once.\n"
)
_END_NOTICE = b"The run did not finish in the time that SIGTERM leaves, and was ended; the next run loads what is missing.\n"


class StopSignal:
    """Requests a stop once `after_s` seconds have passed or `request` was called; never, by default."""

    def __init__(self, after_s: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._after_s = after_s
        self._started_s = clock()
        self._requested: str | None = None

    def request(self, reason: str) -> None:
        """Stop the run after the current window. Safe in a signal handler."""
        self._requested = reason

    @property
    def limit_s(self) -> float | None:
        """Seconds after which a stop is requested; None for no limit."""
        return self._after_s

    @property
    def is_requested(self) -> bool:
        return self.reason is not None

    def wait(self, seconds: float) -> None:
        """Return after `seconds`, or once a stop is requested."""
        until_s = self._clock() + seconds
        while not self.is_requested and (left_s := until_s - self._clock()) > 0:
            time.sleep(min(POLL_S, left_s))

    @property
    def reason(self) -> str | None:
        """`after 50 minutes`, or the reason given to `request`; None while no stop is requested."""
        if self._requested or self._after_s is None or self._clock() < self._started_s + self._after_s:
            return self._requested
        return f"after {round(self._after_s / 60, 2):g} minutes"


@contextmanager
def call_after_stop(stop: StopSignal, call: Callable[[], None], grace_s: float = GRACE_S) -> Iterator[None]:
    """Call `call` in a thread `grace_s` seconds after a stop was requested, unless the block has ended by then."""
    has_ended = threading.Event()

    def watch() -> None:
        while not stop.is_requested:
            if has_ended.wait(POLL_S):
                return
        if not has_ended.wait(grace_s):
            call()

    thread = threading.Thread(target=watch, name="stop", daemon=True)
    thread.start()
    try:
        yield
    finally:
        has_ended.set()
        thread.join()


@contextmanager
def stop_on_sigterm(stop: StopSignal, end_s: float = END_S) -> Iterator[None]:
    """Request a stop on the first SIGTERM; a second one, or SIGINT after it, ends the process. Main thread only.

    After SIGTERM, SIGINT is not a KeyboardInterrupt any more, which a callback or a library may swallow.

    The process is ended with the exit code of an external failure if the block still runs `end_s` seconds after the
    first SIGTERM: whatever it waits for does not answer. The next run recovers from that as from a kill.
    """
    is_terminated, has_ended = threading.Event(), threading.Event()

    def end() -> None:
        is_terminated.wait()
        if not has_ended.wait(end_s):
            os.write(2, _END_NOTICE)
            os._exit(OutsideError.exit_code)

    def handle(number: int, frame: FrameType | None) -> None:
        for ending in (signal.SIGTERM, signal.SIGINT):
            signal.signal(ending, signal.SIG_DFL)
        stop.request("on SIGTERM")
        os.write(2, _SIGTERM_NOTICE)
        is_terminated.set()

    previous = {
        signal.SIGINT: signal.getsignal(signal.SIGINT),
        signal.SIGTERM: signal.signal(signal.SIGTERM, handle),
    }
    threading.Thread(target=end, name="end", daemon=True).start()
    try:
        yield
    finally:
        has_ended.set()
        is_terminated.set()
        for number, handler in previous.items():
            signal.signal(number, handler)
