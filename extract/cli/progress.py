"""Progress displays on standard error: bars with rate and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from extract.cli.output import printable
from extract.deribit.streams import EPOCH_MS, Stream
from extract.listener import Listener
from extract.times import duration, iso

if TYPE_CHECKING:
    from extract.deribit.client import RequestStats

PLAIN_EVERY_S = 5.0
"""Seconds between two plain lines."""


class _Bars(Progress):
    """Bars, and a line of totals below them."""

    totals = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        if self.totals:
            yield Text(self.totals)


class _Display:
    """Base of both displays: a context manager that shows bars until it is closed."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(file=sys.stderr)
        self._bars = _Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}", markup=False),
            console=self.console,
            transient=True,
        )
        self._started_s = self._printed_s = time.monotonic()
        self._lock = Lock()  # progress is reported by several threads

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:  # elsewhere it would print an empty line
            self._bars.stop()

    def _begin(self) -> None:
        self._started_s = self._printed_s = time.monotonic()
        if self.console.is_terminal:
            self._bars.start()

    @property
    def _seconds(self) -> float:
        return max(time.monotonic() - self._started_s, 0.001)

    def _print(self, line: str) -> None:
        self.console.print(printable(line), markup=False, emoji=False, highlight=False, soft_wrap=True)

    def _print_sometimes(self, line: str) -> None:
        """Print `line` where there is no terminal, unless one was printed in the last seconds."""
        if not self.console.is_terminal and time.monotonic() - self._printed_s >= PLAIN_EVERY_S:
            self._printed_s = time.monotonic()
            self._print(line)


class WorkProgress(_Display, Listener):
    """Progress of work whose size is known at its start."""

    _total = _done = 0
    _unit = ""
    _task: TaskID | None = None

    def start(self, total: int, unit: str) -> None:
        self._total, self._done, self._unit = total, 0, unit
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(printable(unit), total=total, note="")
        self._begin()

    def advance(self, count: int) -> None:
        with self._lock:
            self._done += count
            rate = self._done / self._seconds
            left = _time_left(self._done / max(1, self._total), self._seconds)
            counts = f"{self._done:,} of {self._total:,}"
            if self._task is not None:
                note = f"{counts}, {rate:,.0f}/s, {left}"
                self._bars.update(self._task, completed=self._done, note=note)
            self._print_sometimes(f"{counts} {self._unit}, {rate:,.0f}/s, {left}")


@dataclass
class _StreamLine:
    task: TaskID
    from_ms: int
    trades: int = 0
    covered_ms: int = 0


class RunProgress(_Display):
    """Progress of a run: covered time and trades by stream, requests, retries and time left."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__(console)
        self._lines: dict[Stream, _StreamLine] = {}
        self._since_ms: int | None = None
        self._until_ms = 0

    def start(self, streams: Sequence[Stream], since_ms: int | None, until_ms: int) -> None:
        """The run begins: `streams` from `since_ms` (None: from where each ends in the state) to `until_ms`."""
        self._since_ms, self._until_ms = since_ms, until_ms
        names = ", ".join(dict.fromkeys(stream.currency for stream in streams))
        since = f"since {iso(since_ms)}" if since_ms is not None else "from where the last run ended"
        self._print(f"{len(streams)} streams ({names}) {since} until {iso(until_ms)}")
        self._begin()

    def update(self, stream: Stream, rows: int, end_ms: int, stats: RequestStats) -> None:
        """`rows` new trades of `stream` have arrived; everything up to `end_ms` is fetched."""
        with self._lock:
            line = self._lines.get(stream) or self._add_line(stream, end_ms)
            line.trades += rows
            line.covered_ms = max(line.covered_ms, end_ms)
            note = f"{line.trades:,} trades  to {iso(line.covered_ms)}"
            self._bars.update(line.task, completed=max(0, line.covered_ms - line.from_ms), note=note)
            self._bars.totals = self._format_totals(stats)
            self._print_sometimes(self._bars.totals)

    def _add_line(self, stream: Stream, end_ms: int) -> _StreamLine:
        from_ms = self._since_ms if self._since_ms is not None else max(EPOCH_MS, end_ms)
        total = max(1, self._until_ms - from_ms)
        line = _StreamLine(self._bars.add_task(printable(str(stream)), total=total, note=""), from_ms)
        return self._lines.setdefault(stream, line)

    def _format_totals(self, stats: RequestStats) -> str:
        trades = sum(line.trades for line in self._lines.values())
        share = sum(task.percentage for task in self._bars.tasks) / 100 / len(self._bars.tasks)
        return (
            f"{trades:,} trades, {trades / self._seconds:,.0f}/s, {stats.requests:,} requests, "
            f"{stats.retries:,} retries, {_time_left(share, self._seconds)}"
        )


def _time_left(share: float, seconds: float) -> str:
    """Time left of work of which `share` took `seconds`."""
    if share >= 1:
        return "almost done"
    return f"about {duration(seconds * (1 - share) / share)} left" if share > 0.01 else "time left unknown"
