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
from extract.deribit.instruments import InstrumentsReport
from extract.deribit.streams import Stream
from extract.deribit.transport.workers import Workers
from extract.errors import OutsideError
from extract.pipeline.dlt_internals import unwrap_dlt_errors
from extract.pipeline.load import BackgroundLoader, source_state
from extract.pipeline.options import RunOptions, resolve_streams, resolve_times
from extract.pipeline.session import PipelineSession, open_session, run_lock
from extract.pipeline.stop import StopSignal, call_after_stop
from extract.process import gc_frozen
from extract.source.source import deribit
from extract.sweep.prefetch import prefetch
from extract.sweep.state import read_states
from extract.sweep.window import WindowDiscardedError, WindowReport, add_field_counts
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

    `stopped` is the reason why the run ended early, None where it completed. `set_aside`: what could not be loaded, as
    `BTC option` or `instruments of BTC`, with the reason.
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
    set_aside: dict[str, str] = field(default_factory=dict)

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
        for stream, trades in report.by_stream.items():
            self.trades[stream] = self.trades.get(stream, 0) + trades
        add_field_counts(self.unknown_fields, report.unknown_fields)
        self.set_aside |= {str(stream): str(error) for stream, error in report.set_aside.items()}


class StreamsSetAsideError(OutsideError):
    """The exchange's answers about some streams could not be used; everything else is loaded, as `summary` shows."""

    def __init__(self, summary: RunSummary) -> None:
        (name, reason), *others = summary.set_aside.items()
        also = f"{len(others):,} more were set aside as well; a" if others else "A"
        super().__init__(
            f"{name} was set aside, and nothing of it counts as covered: {reason.rstrip('.')}. "
            f"{also}ll others are loaded; the next run tries again."
        )
        self.summary = summary


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
    failed, StreamsSetAsideError once everything is loaded except streams whose answers cannot be used, or the error of
    the first stream if that is every stream. What was loaded stays, with its state; the next run resumes there.
    """
    stop = stop or StopSignal()
    settings = settings or clickhouse_settings()
    config = deribit_config()
    shared_client(settings)  # a server that is down is reported before anything is fetched
    with (
        run_lock(),
        gc_frozen(),
        DeribitClient(config, workers=workers) as client,
        call_after_stop(stop, client.cancel),
    ):
        now_ms = client.now_ms()
        streams = resolve_streams(client, config, options)
        since_ms, until_ms = resolve_times(options, now_ms)
        with open_session(settings, holder) as session:
            run = _Run(session, client, config, streams, now_ms, listener)
            summary = run.load(since_ms, until_ms, stop)
    if summary.set_aside:
        raise StreamsSetAsideError(summary)
    return summary


@dataclass(frozen=True)
class _Run:
    session: PipelineSession
    client: DeribitClient
    config: DeribitConfig
    streams: list[Stream]
    now_ms: int
    listener: RunListener | None
    instruments: InstrumentsReport = field(default_factory=InstrumentsReport)

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
                            summary.stopped = None if self._is_whole(window) else stop.reason
                        else:
                            self.session.register_pending_loads()
                            loader.start()
        stats = self.client.stats
        summary.requests, summary.retries, summary.wire_bytes = stats.requests, stats.retries, stats.bytes
        summary.seconds = time.monotonic() - started_s
        summary.set_aside |= {
            f"instruments of {currency}": str(error) for currency, error in self.instruments.set_aside.items()
        }
        return summary

    def _is_whole(self, window: WindowResult) -> bool:
        """Whether nothing was cut off by a stop."""
        return window.report.is_last and not self.client.is_cancelled

    def _extract(self, items: Iterator[WindowItem]) -> WindowResult:
        """Write the next window into a load package; a discarded one leaves none."""
        while True:
            window = WindowReader(items)
            try:
                with unwrap_dlt_errors():
                    self.session.pipeline.extract(
                        deribit(self.client, window, self.streams, self.now_ms, self.instruments)
                    )
            except WindowDiscardedError:
                continue
            assert window.end is not None, "extracted completely"
            return window.end
