"""Run the extractor against the sandbox without dlt; the state is carried between runs as JSON text."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from extract.deribit.client import DeribitClient
from extract.deribit.config import DeribitConfig
from extract.deribit.instruments import list_live_instruments
from extract.deribit.rate_limit import RateLimiter
from extract.deribit.streams import Stream
from extract.retry import RetryPolicy
from extract.sandbox.server import SandboxExchange
from extract.sweep.ledger import SeqRange
from extract.sweep.state import StreamState, read_states
from extract.sweep.window import SweepRequest, WindowDiscardedError, WindowReport
from extract.sweep.windows import WindowReader, WindowResult, sweep_windows

Row = tuple[str, int, int, float, float]
QUICK = RetryPolicy(attempts=60, total_s=60.0, first_s=0.0005, longest_s=0.002)


def row_of(record: dict[str, Any]) -> Row:
    """The compared part of a trade: its key, and enough content to recognise a restatement."""
    return tuple(record[name] for name in ("instrument_name", "trade_seq", "timestamp", "price", "amount"))


def quick_client(
    exchange: SandboxExchange, transport: httpx.BaseTransport | None = None, **settings: Any
) -> DeribitClient:
    """A client of `exchange` that waits at most 2 ms between attempts."""
    config = DeribitConfig(api_url=exchange.url, history_url=exchange.history_url, **settings)
    return DeribitClient(
        config, transport=transport, policy=QUICK, connect_policy=QUICK, limiter=RateLimiter(1e6)
    )


@dataclass
class Crawl:
    """Loaded rows, and the state as JSON text, of any number of runs.

    `together`: whether the newest trades of all kinds are requested together, divided by the list of instruments.
    `unoffered`: currencies and kinds that the live host may not know any more.
    `has_all_kinds`: whether streams are added of kinds that these trades show.
    """

    exchange: SandboxExchange
    streams: Sequence[Stream]
    page_size: int = 10_000
    in_flight: int = 4
    max_trades: int = 500_000
    rows: Counter[Row] = field(default_factory=Counter)
    absent: Counter[SeqRange] = field(default_factory=Counter)
    rejected: list[str] = field(default_factory=list)
    reports: list[WindowReport] = field(default_factory=list)
    requests: int = 0
    state: str = "{}"
    between_windows: Callable[[], None] = lambda: None
    transport: httpx.BaseTransport | None = None
    machine_s: Callable[[], float] = time.time
    kind_of: dict[str, str] = field(default_factory=dict)
    unoffered: frozenset[str] = frozenset()
    together: bool = False
    has_all_kinds: bool = False

    def run(self, since_ms: int | None = None, until_ms: int | None = None, most_windows: int = 500) -> int:
        """Run once, or the first windows of a run; returns the number of loaded rows."""
        before = self.rows.total()
        with quick_client(self.exchange, self.transport, page_size=self.page_size) as client:
            if self.together:
                listed = list_live_instruments(client, "any")
                self.kind_of = {each.name: each.kind for each in listed}
            order = SweepRequest(
                since_ms,
                until_ms,
                in_flight=self.in_flight,
                max_trades=self.max_trades,
                machine_s=self.machine_s,
                kind_of=self.kind_of,
                unoffered=self.unoffered,
            )
            states = read_states(json.loads(self.state), self.streams)
            new_state = (lambda stream: StreamState()) if self.has_all_kinds else None
            flow = sweep_windows(client, order, states, new_state)
            for _ in range(most_windows):
                package = WindowReader(flow)
                is_final = self._load(package).is_final
                self.between_windows()
                if is_final:
                    next(flow, None)  # raises the error if every stream was set aside
                    break
            flow.close()
            self.requests += client.stats.requests
        return self.rows.total() - before

    def _load(self, package: WindowReader) -> WindowResult:
        """Load one window as one load package."""
        rows: list[Row] = []
        while package.end is None:
            rows.clear()
            with suppress(WindowDiscardedError):  # the sweep begins again
                for table in package.tables():
                    columns = [
                        table.column("timestamp").cast("int64") if name == "timestamp" else table.column(name)
                        for name in ("instrument_name", "trade_seq", "timestamp", "price", "amount")
                    ]
                    rows += zip(*(column.to_pylist() for column in columns), strict=True)
        report = package.end.report
        self.state = json.dumps(json.loads(self.state) | package.end.states)
        self.rows.update(rows)
        self.absent.update(absent.range for absent in report.absent)
        self.rejected += [bad.raw for _, bad in report.rejected]
        self.reports.append(report)
        return package.end
