"""Load new trades continuously in one process, which holds the lease and its connections between turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from extract.clickhouse.client import shared_client
from extract.clickhouse.runs import recorded_run
from extract.clickhouse.settings import ClickHouseSettings, clickhouse_settings
from extract.deribit.client import DeribitClient
from extract.deribit.config import DeribitConfig, deribit_config
from extract.errors import TapeError, UsageError
from extract.pipeline.recheck import recheck_absent
from extract.pipeline.run import load_windows, open_feed
from extract.pipeline.series import load_series
from extract.pipeline.session import PipelineSession, open_session, run_lock
from extract.pipeline.stop import StopSignal, call_after_stop
from extract.pipeline.summary import RunSummary
from extract.process import gc_frozen
from extract.source.options import RunOptions

SESSION_S = 600.0
"""Seconds after which streams are resolved again, the lease is released for others, and old states are pruned."""
LIST_EVERY_S = 60.0
"""Seconds between two lists of instruments."""
LONGEST_PAUSE_S = 60.0
MAX_DOUBLINGS = 16
"""Failures in a row after which the pause doubles no more, however short the first one is."""

OnTurn = Callable[["RunSummary | TapeError"], None]
"""Receives the summary of each turn, or the error that ended it."""


def follow(
    options: RunOptions,
    every_s: float,
    on_turn: OnTurn,
    stop: StopSignal,
    *,
    settings: ClickHouseSettings | None = None,
    session_s: float = SESSION_S,
) -> None:
    """Load what is new every `every_s` seconds until `stop` is requested.

    A turn in which the exchange, the database or the network fails is reported to `on_turn` and repeated, after longer
    and longer pauses of up to LONGEST_PAUSE_S. Raises UsageError for options that cannot be fulfilled, and where another
    run is active or the login is refused, at the start only: after a turn has succeeded, the cause may pass.
    """
    settings = settings or clickhouse_settings()
    config = deribit_config()
    shared_client(settings)
    with run_lock(), gc_frozen():
        failures, has_run = 0, False
        while not stop.is_requested:
            try:
                with (
                    # A failure cancels the requests of its client.
                    DeribitClient(config) as client,
                    call_after_stop(stop, client.cancel),
                    open_session(settings) as session,
                    recorded_run(*session.identity),
                ):
                    turns = _Turns(client, config, options, session, every_s, stop)
                    for summary in turns.run(session_s):
                        failures, has_run = 0, True
                        on_turn(summary)
            except TapeError as error:
                if stop.is_requested or (isinstance(error, UsageError) and not has_run):
                    raise
                failures = min(failures + 1, MAX_DOUBLINGS)
                on_turn(error)
                stop.wait(min(LONGEST_PAUSE_S, every_s * 2**failures))


@dataclass(frozen=True)
class _Turns:
    client: DeribitClient
    config: DeribitConfig
    options: RunOptions
    session: PipelineSession
    every_s: float
    stop: StopSignal

    def run(self, seconds: float) -> Iterator[RunSummary]:
        """Load what is new, again and again for `seconds`."""
        client, now_ms = self.client, self.client.now_ms()
        times = None, None, now_ms
        feed = open_feed(self.session, client, self.config, self.options, times, None, self.stop)
        is_first = True
        started_s = listed_s = time.monotonic()
        while True:
            turn_s, before = time.monotonic(), replace(client.stats)
            summary = load_windows(self.session, feed, self.stop)
            streams = feed.universe.streams
            if is_first and not self.stop.is_requested:
                names = zip(*streams, strict=True)
                summary.add_recheck(recheck_absent(self.session, client, self.config, *names))
            is_first = False
            load_series(
                self.session, client, self.config, streams, feed.now_ms, self.stop, summary, in_turns=True
            )
            summary.note_requests(client.stats, before)
            yield summary
            if time.monotonic() - started_s >= seconds:
                return
            self.stop.wait(turn_s + self.every_s - time.monotonic())
            if self.stop.is_requested:
                return
            feed.lists_instruments = time.monotonic() - listed_s >= LIST_EVERY_S
            if feed.lists_instruments:
                listed_s, feed.now_ms = time.monotonic(), client.now_ms()
