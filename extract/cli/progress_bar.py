"""How far work of a known size is: a bar with rate and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_EVERY_S = 5.0


class ProgressBar:
    """On standard error, as a context manager: `start` sets how much there is to do, `advance` how much more is done."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stderr)
        self._columns = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._columns.add_task("", total=None, rate="")
        self._unit = ""
        self._total = self._done = 0
        self._started_s = self._printed_s = time.monotonic()

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._columns.stop()

    def start(self, total: int, unit: str) -> None:
        """`unit` is a plural: `trades`."""
        self._unit, self._total, self._done = unit, total, 0
        self._started_s = self._printed_s = time.monotonic()
        self._columns.update(self._task, description=unit, total=total, completed=0)
        if self._console.is_terminal:
            self._columns.start()

    def advance(self, count: int) -> None:
        self._done += count
        rate = self._done / max(time.monotonic() - self._started_s, 0.001)
        self._columns.update(self._task, completed=self._done, rate=f"{rate:,.0f}/s")
        if not self._console.is_terminal and time.monotonic() - self._printed_s >= PLAIN_EVERY_S:
            self._printed_s = time.monotonic()
            left_s = max(0, self._total - self._done) / max(rate, 0.001)
            self._console.print(
                f"{self._done:,} of {self._total:,} {self._unit}, {rate:,.0f}/s, about {left_s:,.0f} s left",
                highlight=False,
                soft_wrap=True,
            )
