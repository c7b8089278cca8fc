"""One incremental run: windows of trades, each loaded as one package with its proof and its state."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from copy import deepcopy
from functools import partial
from typing import Protocol

from extract.clickhouse.client import shared_client
from extract.clickhouse.runs import recorded_run
from extract.clickhouse.settings import ClickHouseSettings, clickhouse_settings
from extract.deribit.client import DeribitClient, RequestStats
from extract.deribit.config import DeribitConfig, deribit_config
from extract.deribit.streams import Stream
from extract.deribit.transport.workers import Workers
from extract.errors import OutsideError
from extract.pipeline.load import source_state
from extract.pipeline.loaded import LoadedSeqs
from extract.pipeline.recheck import recheck_absent
from extract.pipeline.series import load_series
from extract.pipeline.session import PipelineSession, open_session, run_lock
from extract.pipeline.stop import StopSignal, call_after_stop
from extract.pipeline.summary import RunSummary, require_complete
from extract.process import gc_frozen
from extract.source.feed import Window, WindowFeed
from extract.source.options import RunOptions, resolve_streams, resolve_times
from extract.source.recorded import Recorded
from extract.source.source import require_same_exchange
from extract.sweep.window import SweepRequest


class RunListener(Protocol):
    """Receives the progress of a run. `update` may be called from any thread."""

    def start(self, streams: Sequence[Stream], since_ms: int | None, until_ms: int) -> None:
        """The run begins to fetch; `since_ms` is None where it continues from the stored state."""

    def update(self, stream: Stream, rows: int, end_ms: int, stats: RequestStats) -> None:
        """A slice of `stream` up to `end_ms` has arrived with `rows` new trades; `stats` count the run's requests."""


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
    failed, IncompleteRunError once everything is loaded except what the exchange's answers made impossible, or the error
    of the first stream if no stream is left. What was loaded stays, with its state; the next run resumes there.
    """
    stop = stop or StopSignal()
    settings = settings or clickhouse_settings()
    config = deribit_config()
    shared_client(settings)  # a server that is down is reported before anything is fetched
    is_open = False
    try:
        with (
            run_lock(),
            gc_frozen(),
            DeribitClient(config, workers=workers) as client,
            call_after_stop(stop, client.cancel),
        ):
            now_ms = client.now_ms()
            since_ms, until_ms = resolve_times(options, now_ms)
            with open_session(settings, holder) as session, recorded_run(*session.identity, stop.limit_s):
                feed = open_feed(
                    session, client, config, options, (since_ms, until_ms, now_ms), listener, stop
                )
                is_open = True
                if listener:
                    listener.start(feed.universe.streams, since_ms, until_ms or now_ms)
                summary = load_windows(session, feed, stop)
                if not stop.is_requested:
                    streams = zip(*feed.universe.streams, strict=True)
                    summary.add_recheck(recheck_absent(session, client, config, *streams))
                load_series(session, client, config, feed.universe.streams, now_ms, stop, summary)
            summary.note_requests(client.stats)
    except OutsideError:
        if is_open or not (stop.is_requested and client.is_cancelled):
            raise
        return RunSummary(stopped=stop.reason)  # before it was known which streams there are
    require_complete(summary)
    return summary


def open_feed(
    session: PipelineSession,
    client: DeribitClient,
    config: DeribitConfig,
    options: RunOptions,
    times: tuple[int | None, int | None, int],
    listener: RunListener | None,
    stop: StopSignal,
) -> WindowFeed:
    """A feed of the windows that follow the session's state. `times`: (since, until, now) in ms.

    Raises UsageError for currencies or kinds that the exchange does not have, and for another exchange than that of the
    loaded trades.
    """

    def on_slice(stream: Stream, rows: int, end_ms: int) -> None:
        if listener:
            listener.update(stream, rows, end_ms, client.stats)

    # Not left to the load package: a run that finds no trade has none.
    require_same_exchange(source_state(session.pipeline), client.exchange)
    since_ms, until_ms, now_ms = times
    request = SweepRequest(
        since_ms,
        until_ms,
        in_flight=config.requests_in_flight,
        max_trades=config.window_trades,
        on_slice=on_slice,
        should_stop=lambda: stop.is_requested,
        again=options.again,
    )
    state = deepcopy(source_state(session.pipeline).get("resources", {}))
    known = state.get("instruments", {}).get("known", {})
    return WindowFeed(
        client,
        resolve_streams(client, config, options, state.get("trades", {}), known=known, now_ms=now_ms),
        request,
        now_ms,
        stored=state.get("trades", {}),
        known=known,
        lookup_of=partial(LoadedSeqs, session.tables),
        loaded_rows=session.tables.live_instruments,
        recorded=Recorded.from_json(state.get("rejected_trades", {})),
        spool=session.pipeline.working_dir,
        before_load=session.register_load,
    )


def load_windows(session: PipelineSession, feed: WindowFeed, stop: StopSignal) -> RunSummary:
    """Load window by window, until everything requested is covered: pages of the next ones are fetched meanwhile."""
    started_s = time.monotonic()
    summary = RunSummary(notes=list(feed.universe.notes))
    window: Window | None = None
    with closing(feed.windows()) as windows:
        for window in windows:
            if not window.is_idle:
                session.load_window(window)
                summary.rejected += len(window.listing.rejected)
            assert window.result is not None, "the window is loaded or idle"
            summary.add(window.result.report)
    is_last = window is not None and window.result is not None and window.result.report.is_last
    # Nothing was cut off by a stop.
    summary.stopped = None if is_last and not feed.client.is_cancelled else stop.reason
    summary.seconds = time.monotonic() - started_s
    summary.notes += [
        f"{name} is not listed any more, and the history host does not show it as expired: it may have another name now."
        for name in feed.listing.vanished
    ]
    feed.listing.vanished.clear()
    summary.set_aside |= {
        f"instruments of {currency}": str(error) for currency, error in feed.listing.set_aside.items()
    }
    if error := feed.universe.expired_error:
        summary.set_aside["the history of currencies that are no longer offered"] = str(error)
    return summary
