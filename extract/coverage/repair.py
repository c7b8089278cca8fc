"""Fetch missing trades and rows of series, and nothing else, into the tables of a run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from extract.coverage.gaps import EVERYTHING, Gap, Scope, find_gaps
from extract.coverage.series_repair import SeriesRepairReport, repair_series
from extract.coverage.session import CoverageSession, open_coverage_session
from extract.deribit.streams import Stream
from extract.errors import TapeError
from extract.listener import Listener
from extract.pipeline.recheck import recheck_absent, set_aside_instruments
from extract.source.source import repaired_trades
from extract.sweep.recovered import RecoveredTrades
from extract.sweep.repair import RepairQueue, RepairResult, repairs
from extract.sweep.window import WindowReport

ALL = 10**9
"""A limit that includes every range."""


@dataclass
class RepairReport:
    """Result of a repair, counted in seqs: `wanted` were missing; `remaining` still are and are not known absent.

    `rechecked` of the `wanted` were absent, and due to be requested again. `set_aside`: instruments whose answers
    cannot be used, with the error. `series`: the same of the series besides trades.
    """

    ranges: int = 0
    wanted: int = 0
    rechecked: int = 0
    fetched: int = 0
    absent: int = 0
    rejected: int = 0
    packages: int = 0
    requests: int = 0
    seconds: float = 0.0
    remaining: list[Gap] = field(default_factory=list)
    set_aside: dict[str, TapeError] = field(default_factory=dict)
    series: SeriesRepairReport = field(default_factory=SeriesRepairReport)

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing any more that is not known to be absent."""
        return not (self.remaining or self.series.remaining or self.series.unproven)

    def add(self, package: WindowReport) -> None:
        self.packages += 1
        self.fetched += package.trades
        self.absent += sum(len(each.range) for each in package.absent)
        self.rejected += len(package.rejected)


def repair_gaps(
    scope: Scope = EVERYTHING, *, retry_absent: bool = False, listener: Listener | None = None
) -> RepairReport:
    """Fetch the gaps of `scope`, also those of series besides trades, and request absent trades again that are due.

    With `retry_absent` it requests everything that was absent, and trades that were undecodable. An instrument or a key of
    a series whose answers cannot be used is set aside. Raises CannotTellError where no time is covered, FinalError where
    the clocks of the exchange and of this machine differ, OutsideError when the exchange answers no request or the
    database failed: load packages that were loaded before remain.
    """
    started_s = time.monotonic()
    listener = listener or Listener()
    report = RepairReport()
    with open_coverage_session() as session:
        gaps = find_gaps(session.database, scope)
        wanted = [gap for gap in gaps if retry_absent or not (gap.known_absent or gap.rejected)]
        due = [] if retry_absent else [gap for gap in gaps if gap.due]
        report.ranges, report.wanted = len(wanted) + len(due), sum(map(len, wanted + due))
        if report.wanted:
            session.require_exchange()
        listener.start(report.wanted, "trades")
        _fetch(session, wanted, report, listener)
        if not retry_absent:
            again = recheck_absent(
                session.pipeline,
                session.client,
                session.config,
                scope.currencies,
                scope.kinds,
                most=ALL,
            )
            report.rechecked = again.due
            report.fetched += again.fetched
            report.absent += again.absent
            report.rejected += again.rejected
            report.set_aside |= again.set_aside
            listener.advance(again.due)
        if report.wanted:
            gaps = find_gaps(session.database, scope)
        report.remaining = [gap for gap in gaps if not gap.known_absent]
        report.series = repair_series(session, scope, retry_absent=retry_absent)
        report.set_aside |= report.series.set_aside
        report.requests = session.client.stats.requests
    report.seconds = time.monotonic() - started_s
    return report


def _fetch(session: CoverageSession, gaps: Sequence[Gap], report: RepairReport, listener: Listener) -> None:
    """Request the trades of `gaps`, and load them in packages of `window_trades`."""
    stream_of = {gap.range.instrument_name: gap.stream for gap in gaps}
    queue = RepairQueue(
        (
            (stream_of[each.instrument_name], each)
            for each in repairs(session.client, [gap.range for gap in gaps])
        ),
        set_aside_instruments(session.client, report.set_aside),
    )
    absent = [gap.range for gap in gaps if gap.known_absent]
    while not queue.is_empty:
        package = WindowReport()
        results = queue.run(
            in_flight=session.config.requests_in_flight,
            cancel=session.client.cancel,
            max_trades=session.config.window_trades,
        )
        session.pipeline.run(
            repaired_trades(
                session.client.exchange,
                _report_progress(results, listener),
                package,
                RecoveredTrades(absent),
            )
        )
        report.add(package)


def _report_progress(
    results: Iterable[tuple[Stream, RepairResult]], listener: Listener
) -> Iterator[tuple[Stream, RepairResult]]:
    for stream, result in results:
        listener.advance(result.table.num_rows + sum(map(len, result.absent)))
        yield stream, result
