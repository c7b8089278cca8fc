"""Progress displays on standard error: bars with rate and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, Task, TextColumn
from rich.text import Text

from extract.deribit.streams import EPOCH_MS, Stream
from extract.errors import printable
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

    _unit = ""

    def start(self, total: int, unit: str) -> None:
        self._unit = unit
        for task_id in self._bars.task_ids:
            self._bars.remove_task(task_id)
        self._bars.add_task(printable(unit), total=total, note="")
        self._begin()

    def advance(self, count: int) -> None:
        with self._lock:
            [task] = self._bars.tasks
            done = int(task.completed) + count
            counts = f"{done:,} of {task.total:,}"
            rate = f"{done / self._seconds:,.0f}/s, {_time_left(done / (task.total or 1), self._seconds)}"
            self._bars.update(task.id, completed=done, note=f"{counts}, {rate}")
            self._print_sometimes(f"{counts} {self._unit}, {rate}")


class RunProgress(_Display):
    """Progress of a run: covered time and trades by stream, requests, retries and time left."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__(console)
        self._tasks: dict[Stream, Task] = {}
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
            task = self._tasks.get(stream) or self._add_task(stream, end_ms)
            trades, from_ms = task.fields["trades"] + rows, task.fields["from_ms"]
            done_ms = max(task.completed, end_ms - from_ms)
            note = f"{trades:,} trades  to {iso(from_ms + done_ms)}"
            self._bars.update(task.id, completed=done_ms, trades=trades, note=note)
            self._bars.totals = self._format_totals(stats)
            self._print_sometimes(self._bars.totals)

    def _add_task(self, stream: Stream, end_ms: int) -> Task:
        from_ms = self._since_ms if self._since_ms is not None else max(EPOCH_MS, end_ms)
        total = max(1, self._until_ms - from_ms)
        self._bars.add_task(printable(str(stream)), total=total, note="", from_ms=from_ms, trades=0)
        return self._tasks.setdefault(stream, self._bars.tasks[-1])

    def _format_totals(self, stats: RequestStats) -> str:
        trades = sum(task.fields["trades"] for task in self._bars.tasks)
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
