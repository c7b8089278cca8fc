"""Fetch missing trades, and nothing else, into the tables of a run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from extract.coverage.gaps import EVERYTHING, Gap, Scope, find_gaps
from extract.coverage.session import open_coverage_session
from extract.deribit.streams import Stream
from extract.listener import Listener
from extract.source.source import repaired_trades
from extract.sweep.repair import RepairQueue, RepairResult, repairs
from extract.sweep.window import WindowReport


@dataclass
class RepairReport:
    """Result of a repair, counted in seqs: `wanted` were missing; `remaining` still are and are not known absent."""

    ranges: int = 0
    wanted: int = 0
    fetched: int = 0
    absent: int = 0
    rejected: int = 0
    packages: int = 0
    requests: int = 0
    seconds: float = 0.0
    remaining: list[Gap] = field(default_factory=list)

    def add(self, package: WindowReport) -> None:
        self.packages += 1
        self.fetched += package.trades
        self.absent += sum(len(each.range) for each in package.absent)
        self.rejected += len(package.rejected)


def repair_gaps(
    scope: Scope = EVERYTHING, *, retry_absent: bool = False, listener: Listener | None = None
) -> RepairReport:
    """Fetch the gaps of `scope`; with `retry_absent` also trades that were absent or undecodable last time.

    Raises CannotTellError where no time is covered, OutsideError when the exchange or the database failed: load
    packages that were loaded before remain.
    """
    started_s = time.monotonic()
    listener = listener or Listener()
    report = RepairReport()
    with open_coverage_session() as session:
        gaps = find_gaps(session.database, scope)
        wanted = [gap for gap in gaps if retry_absent or not (gap.known_absent or gap.rejected)]
        report.ranges, report.wanted = len(wanted), sum(map(len, wanted))
        if wanted:
            session.client.now_ms()  # raises early where the exchange cannot be reached
        listener.start(report.wanted, "trades")
        stream_of = {gap.range.instrument_name: gap.stream for gap in wanted}
        queue = RepairQueue(
            (stream_of[each.instrument_name], each)
            for each in repairs(session.client, [gap.range for gap in wanted])
        )
        while not queue.is_empty:
            package = WindowReport()
            results = queue.run(
                in_flight=session.config.requests_in_flight,
                cancel=session.client.cancel,
                max_trades=session.config.window_trades,
            )
            session.pipeline.run(
                repaired_trades(session.client.exchange, _report_progress(results, listener), package)
            )
            report.add(package)
        if wanted:
            gaps = find_gaps(session.database, scope)
        report.remaining = [gap for gap in gaps if not gap.known_absent]
        report.requests = session.client.stats.requests
    report.seconds = time.monotonic() - started_s
    return report


def _report_progress(
    results: Iterable[tuple[Stream, RepairResult]], listener: Listener
) -> Iterator[tuple[Stream, RepairResult]]:
    for stream, result in results:
        listener.advance(result.table.num_rows + sum(map(len, result.absent)))
        yield stream, result
