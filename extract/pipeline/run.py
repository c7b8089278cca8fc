"""One incremental run: windows of trades, each a load package with its data, its proof and its cursor."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from extract.cli.progress import Progress
from extract.clickhouse.client import shared_client
from extract.clickhouse.settings import ClickHouseSettings, clickhouse_settings
from extract.deribit.client import DeribitClient
from extract.deribit.config import KINDS, DeribitConfig, deribit_config
from extract.deribit.jsonrpc import ExchangeRefusedError
from extract.deribit.streams import Stream
from extract.deribit.transport.workers import Workers
from extract.errors import UsageError
from extract.pipeline.load import BackgroundLoader, source_state, unwrap_dlt_errors
from extract.pipeline.session import PipelineSession, open_session, run_lock
from extract.pipeline.stop import StopSignal
from extract.process import gc_frozen
from extract.source.source import deribit
from extract.sweep.prefetch import prefetch
from extract.sweep.state import StreamState, read_states
from extract.sweep.window import WindowReport
from extract.sweep.windows import SweepRequest, WindowItem, WindowReader, WindowResult, sweep_windows
from extract.times import parse_time_ms

if TYPE_CHECKING:
    from dlt import Pipeline

BATCHES_AHEAD = 2
"""Batches of trades that may wait while dlt writes one or ends a package: the workers are not to wait for it."""


@dataclass(frozen=True)
class RunOptions:
    """What the user asked for; None or empty = what the configuration says."""

    since: str | None = None
    until: str | None = None
    currencies: Sequence[str] = ()
    kinds: Sequence[str] = ()


@dataclass
class RunSummary:
    """What a run came to. `trades` counts rows loaded, by stream.

    `stopped`: why it ended with more to do; None where all is done.
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
        """Takes in one window."""
        self.windows += 1
        self.repaired += report.repaired
        self.known += report.known
        self.restated += report.restated
        self.rejected += len(report.rejected)
        self.absent += sum(len(absent.range) for absent in report.absent)
        self.unknown_fields += report.unknown_fields


def run(
    options: RunOptions,
    progress: Progress | None = None,
    stop: StopSignal | None = None,
    *,
    settings: ClickHouseSettings | None = None,
    holder: str | None = None,
    workers: Workers | None = None,
) -> RunSummary:
    """Runs windows until the streams are covered up to now, or the window asked for, or until `stop` is due.

    `settings` are by default the environment's; `holder` as `open_session` has it; `workers` fetch pages if they
    were started already.

    Raises UsageError for what cannot be asked for, OutsideError when a part outside failed, ProofError when data
    contradicts a proof. What was loaded until then stays, with its state; the next run goes on from there.
    """
    settings = settings or clickhouse_settings()
    config = deribit_config()
    progress = progress or Progress()
    shared_client(settings)  # a server that is not up is told before anything is fetched
    with run_lock(), gc_frozen(), DeribitClient(config, workers=workers) as client:
        asked = _Asked.of(client, config, options)
        with open_session(settings, holder) as exclusive, progress:
            return _run_windows(exclusive, client, config, asked, progress, stop or StopSignal())


@dataclass(frozen=True)
class _Asked:
    """What the options come to at this exchange and time."""

    streams: list[Stream]
    since_ms: int | None
    until_ms: int | None
    now_ms: int

    @classmethod
    def of(cls, client: DeribitClient, config: DeribitConfig, options: RunOptions) -> _Asked:
        now_ms = client.now_ms()
        streams = wanted_streams(client, config, options)
        return cls(streams, *wanted_time(options, now_ms), now_ms)


def _run_windows(
    exclusive: PipelineSession,
    client: DeribitClient,
    config: DeribitConfig,
    asked: _Asked,
    progress: Progress,
    stop: StopSignal,
) -> RunSummary:
    started = time.monotonic()
    summary = RunSummary()
    progress.start(asked.streams, asked.since_ms, asked.until_ms or asked.now_ms)

    with BackgroundLoader(exclusive.pipeline) as loader:

        def on_slice(stream: Stream, rows: int, end_ms: int) -> None:
            loader.check()
            summary.trades[stream] = summary.trades.get(stream, 0) + rows
            progress.update(stream, rows, end_ms, client.stats)

        order = SweepRequest(
            asked.since_ms,
            asked.until_ms,
            in_flight=config.requests_in_flight,
            max_trades=config.window_trades,
            on_slice=on_slice,
            should_stop=lambda: stop.is_requested,
        )
        swept = sweep_windows(client, order, _states(exclusive.pipeline, asked.streams))
        with closing(prefetch(swept, depth=BATCHES_AHEAD, cancel=client.cancel)) as flow:
            is_final = False
            while not is_final:
                end = _extract(exclusive, client, asked, flow)
                summary.add(end.report)
                is_final = end.is_final
                # One window is written while one is loaded, and never more: neither disk nor memory grow.
                loader.wait()
                with unwrap_dlt_errors():
                    exclusive.pipeline.normalize()
                    if is_final:
                        exclusive.load()
                        summary.stopped = None if end.report.is_last else stop.reason
                    else:
                        exclusive.register_pending_loads()
                        loader.start()
    summary.requests = client.stats.requests
    summary.retries = client.stats.retries
    summary.wire_bytes = client.stats.bytes
    summary.seconds = time.monotonic() - started
    return summary


def _extract(
    exclusive: PipelineSession, client: DeribitClient, asked: _Asked, flow: Iterator[WindowItem]
) -> WindowResult:
    """Writes the flow's next window into a load package."""
    package = WindowReader(flow)
    with unwrap_dlt_errors():
        exclusive.pipeline.extract(deribit(client, package, asked.streams, asked.now_ms))
    assert package.end is not None, "extracted to its end"
    return package.end


def _states(pipeline: Pipeline, streams: Sequence[Stream]) -> dict[Stream, StreamState]:
    """From where the streams go on."""
    return read_states(source_state(pipeline).get("resources", {}).get("trades", {}), streams)


def wanted_time(options: RunOptions, now_ms: int) -> tuple[int | None, int | None]:
    """(since, until) in ms; None = from where the state stands, and until now."""
    since_ms = parse_time_ms(options.since, "--since", now_ms) if options.since else None
    until_ms = parse_time_ms(options.until, "--until", now_ms) if options.until else None
    if since_ms is not None and since_ms > now_ms:
        raise UsageError(f"--since {options.since} is in the future; name a time that has passed.")
    if since_ms is not None and until_ms is not None and since_ms >= until_ms:
        raise UsageError(f"--since {options.since} is not before --until {options.until}; swap them.")
    # What is still to come cannot be covered.
    return since_ms, until_ms if until_ms is not None and until_ms < now_ms else None


def wanted_streams(client: DeribitClient, config: DeribitConfig, options: RunOptions) -> list[Stream]:
    """The streams asked for, by currency and kind. Raises UsageError that names what the exchange does not know."""
    kinds = list(dict.fromkeys(options.kinds or config.kinds or KINDS))
    for kind in kinds:
        if kind not in KINDS:
            raise UsageError(f"--kind {kind!r} is none; the exchange has {', '.join(KINDS)}.")
    named = [c.upper() for c in options.currencies or config.currencies or ()]
    offered = [c["currency"] for c in client.result(client.live, "get_currencies", type=list[dict])]
    for currency in named:
        if currency not in offered and not _has_instruments(client, currency):
            raise UsageError(
                f"--currency {currency!r} is none; the exchange has {', '.join(sorted(offered))}."
            )
    return [Stream(currency, kind) for currency in dict.fromkeys(named or offered) for kind in kinds]


def _has_instruments(client: DeribitClient, currency: str) -> bool:
    """Whether history knows a currency that is no longer offered."""
    try:
        return bool(
            client.result(client.history, "get_instruments", {"currency": currency, "expired": "true"})
        )
    except ExchangeRefusedError:
        return False
