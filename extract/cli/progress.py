"""What a run shows while it works: a live line per stream on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from extract.deribit.client import RequestStats
from extract.deribit.streams import EPOCH_MS, Stream
from extract.times import iso

PLAIN_EVERY_S = 5.0


@dataclass
class _Line:
    trades: int = 0
    from_ms: int = 0
    covered_ms: int = 0


class Progress:
    """Covered time, trades a second, requests, retries and time left, on standard error."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stderr)
        self._lines: dict[Stream, _Line] = {}
        self._since_ms: int | None = None
        self._until_ms = 0
        self._started = time.monotonic()
        self._printed = self._started
        self._traffic = RequestStats()
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def start(self, streams: Sequence[Stream], since_ms: int | None, until_ms: int) -> None:
        """Says what the run is about to do."""
        self._since_ms = since_ms
        self._until_ms = until_ms
        names = ", ".join(dict.fromkeys(stream.currency for stream in streams))
        since = f"since {iso(since_ms)}" if since_ms is not None else "from where the state stands"
        self._console.print(
            f"{len(streams)} streams ({names}) {since} until {iso(until_ms)}", highlight=False
        )

    def update(self, stream: Stream, rows: int, end_ms: int, stats: RequestStats) -> None:
        """A slice of `stream` up to `end_ms` arrived with `rows` new trades."""
        line = self._lines.setdefault(stream, _Line(from_ms=end_ms))
        line.trades += rows
        line.covered_ms = max(line.covered_ms, end_ms)
        self._traffic = stats
        if self._console.is_terminal:
            self._live.update(self._render())
        elif time.monotonic() - self._printed >= PLAIN_EVERY_S:
            self._printed = time.monotonic()
            self._console.print(self._totals(), highlight=False)

    def _totals(self) -> str:
        seconds = max(time.monotonic() - self._started, 0.001)
        trades = sum(line.trades for line in self._lines.values())
        left = _left(self._share(), seconds)
        return (
            f"{trades:,} trades, {trades / seconds:,.0f}/s, {self._traffic.requests:,} requests, "
            f"{self._traffic.retries:,} retries, {left}"
        )

    def _share(self) -> float:
        """Share of the time asked for that is behind, over the streams begun."""
        shares = [self._share_of(line) for line in self._lines.values()]
        return sum(shares) / len(shares) if shares else 0.0

    def _share_of(self, line: _Line) -> float:
        from_ms = self._since_ms if self._since_ms is not None else max(EPOCH_MS, line.from_ms)
        return min(1.0, max(0.0, (line.covered_ms - from_ms) / max(1, self._until_ms - from_ms)))

    def _render(self) -> Group:
        table = Table(box=None, pad_edge=False, show_header=False)
        for stream, line in self._lines.items():
            bar = ProgressBar(total=1.0, completed=self._share_of(line), width=24)
            table.add_row(str(stream), bar, f"{line.trades:,} trades", f"to {iso(line.covered_ms)}")
        return Group(table, self._totals())


def _left(share: float, seconds: float) -> str:
    if not 0.01 < share < 1.0:
        return "time left unknown" if share < 1.0 else "almost done"
    left_s = seconds * (1 - share) / share
    return f"about {left_s / 60:,.0f} min left" if left_s > 90 else f"about {left_s:,.0f} s left"
