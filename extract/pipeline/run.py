"""One incremental run: windows of trades, each loaded as one package with its proof and its state."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Protocol

from extract.clickhouse.client import shared_client
from extract.clickhouse.settings import ClickHouseSettings, clickhouse_settings
from extract.deribit.client import DeribitClient, RequestStats
from extract.deribit.config import DeribitConfig, deribit_config
from extract.deribit.streams import Stream
from extract.deribit.transport.workers import Workers
from extract.pipeline.dlt_internals import unwrap_dlt_errors
from extract.pipeline.load import BackgroundLoader, source_state
from extract.pipeline.options import RunOptions, resolve_streams, resolve_times
from extract.pipeline.session import PipelineSession, open_session, run_lock
from extract.pipeline.stop import StopSignal
from extract.process import gc_frozen
from extract.source.source import deribit
from extract.sweep.prefetch import prefetch
from extract.sweep.state import read_states
from extract.sweep.window import WindowReport
from extract.sweep.windows import SweepRequest, WindowItem, WindowReader, WindowResult, sweep_windows

PREFETCHED_BATCHES = 2
"""Batches of trades that may wait while dlt writes one or completes a package, so that fetching continues."""


class RunListener(Protocol):
    """Receives the progress of a run. `update` may be called from any thread."""

    def start(self, streams: Sequence[Stream], since_ms: int | None, until_ms: int) -> None:
        """The run begins to fetch; `since_ms` is None where it continues from the stored state."""

    def update(self, stream: Stream, rows: int, end_ms: int, stats: RequestStats) -> None:
        """A slice of `stream` up to `end_ms` has arrived with `rows` new trades; `stats` count the run's requests."""


@dataclass
class RunSummary:
    """Result of a run. `trades` counts loaded rows by stream.

    `stopped` is the reason why the run ended early, None where it completed.
    """

    trades: dict[Stream, int] = field(default_factory=dict)
    windows: int = 0
    repaired: int = 0
    known: int = 0
    restated: int = 0
    rejected: int = 0
    absent: int = 0
    unknown_fields: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    retries: int = 0
    wire_bytes: int = 0
    seconds: float = 0.0
    stopped: str | None = None

    @property
    def is_complete(self) -> bool:
        return self.stopped is None

    @property
    def total(self) -> int:
        return sum(self.trades.values())

    def add(self, report: WindowReport) -> None:
        """Add the figures of one window."""
        self.windows += 1
        self.repaired += report.repaired
        self.known += report.known
        self.restated += report.restated
        self.rejected += len(report.rejected)
        self.absent += sum(len(absent.range) for absent in report.absent)
        self.unknown_fields += report.unknown_fields


def run(
    options: RunOptions,
    listener: RunListener | None = None,
    stop: StopSignal | None = None,
    *,
    settings: ClickHouseSettings | None = None,
    holder: str | None = None,
    workers: Workers | None = None,
) -> RunSummary:
    """Load windows until the streams are covered, up to now or to the requested time, or until `stop` is requested.

    `settings` default to those of the environment; `holder` as in `open_session`; `workers` are page workers that were
    started already.

    Raises UsageError for options that cannot be fulfilled, OutsideError when the exchange, ClickHouse or the network
    failed, ProofError when data contradicts a proof. What was loaded stays, with its state; the next run resumes there.
    """
    settings = settings or clickhouse_settings()
    config = deribit_config()
    shared_client(settings)  # a server that is down is reported before anything is fetched
    with run_lock(), gc_frozen(), DeribitClient(config, workers=workers) as client:
        now_ms = client.now_ms()
        streams = resolve_streams(client, config, options)
        since_ms, until_ms = resolve_times(options, now_ms)
        with open_session(settings, holder) as session:
            run = _Run(session, client, config, streams, now_ms, listener)
            return run.load(since_ms, until_ms, stop or StopSignal())


@dataclass(frozen=True)
class _Run:
    session: PipelineSession
    client: DeribitClient
    config: DeribitConfig
    streams: list[Stream]
    now_ms: int
    listener: RunListener | None

    def load(self, since_ms: int | None, until_ms: int | None, stop: StopSignal) -> RunSummary:
        """Sweep and load window by window: one window is written while the previous one is loaded."""
        started_s = time.monotonic()
        summary = RunSummary()
        if self.listener:
            self.listener.start(self.streams, since_ms, until_ms or self.now_ms)
        pipeline = self.session.pipeline

        with BackgroundLoader(pipeline) as loader:

            def on_slice(stream: Stream, rows: int, end_ms: int) -> None:
                loader.check()
                summary.trades[stream] = summary.trades.get(stream, 0) + rows
                if self.listener:
                    self.listener.update(stream, rows, end_ms, self.client.stats)

            request = SweepRequest(
                since_ms,
                until_ms,
                in_flight=self.config.requests_in_flight,
                max_trades=self.config.window_trades,
                on_slice=on_slice,
                should_stop=lambda: stop.is_requested,
            )
            stored = source_state(pipeline).get("resources", {}).get("trades", {})
            items = sweep_windows(self.client, request, read_states(stored, self.streams))
            with closing(prefetch(items, depth=PREFETCHED_BATCHES, cancel=self.client.cancel)) as items:
                is_final = False
                while not is_final:
                    window = self._extract(items)
                    summary.add(window.report)
                    is_final = window.is_final
                    # At most one window is loaded while one is written, so that disk and memory stay bounded.
                    loader.wait()
                    with unwrap_dlt_errors():
                        pipeline.normalize()
                        if is_final:
                            self.session.load()
                            summary.stopped = None if window.report.is_last else stop.reason
                        else:
                            self.session.register_pending_loads()
                            loader.start()
        stats = self.client.stats
        summary.requests, summary.retries, summary.wire_bytes = stats.requests, stats.retries, stats.bytes
        summary.seconds = time.monotonic() - started_s
        return summary

    def _extract(self, items: Iterator[WindowItem]) -> WindowResult:
        """Write the next window into a load package."""
        window = WindowReader(items)
        with unwrap_dlt_errors():
            self.session.pipeline.extract(deribit(self.client, window, self.streams, self.now_ms))
        assert window.end is not None, "extracted completely"
        return window.end
