"""Fetching exactly what is missing, through the same pipeline and into the same tables as a run."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import dlt
from dlt.extract import DltResource

from extract.cli.progress_bar import ProgressBar
from extract.clickhouse.client import shared_client
from extract.clickhouse.settings import clickhouse_settings
from extract.coverage.gaps import EVERYTHING, Gap, Scope, find_gaps
from extract.deribit.arrow import with_stream_columns
from extract.deribit.client import DeribitClient
from extract.deribit.config import deribit_config
from extract.deribit.streams import Stream
from extract.pipeline.session import open_session, run_lock
from extract.source.source import absent_rows, rejected_rows, report_resource, require_same_exchange
from extract.source.tables import ABSENT_TRADES, REJECTED_TRADES
from extract.sweep.repair import InstrumentRepair, RepairResult, repairs
from extract.sweep.window import Absent, WindowReport


@dataclass
class RepairReport:
    """What a repair came to, in seqs: `wanted` were missing, `remaining` still are and are not known absent."""

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
    scope: Scope = EVERYTHING, *, again: bool = False, tally: ProgressBar | None = None
) -> RepairReport:
    """Fetches the gaps of `scope`; with `again` also what the exchange had not, or sent untypable, the last time.

    Raises CannotTellError where nothing is covered, OutsideError when a part outside failed: the packages loaded
    until then stay.
    """
    started_s = time.monotonic()
    settings, config = clickhouse_settings(), deribit_config()
    clickhouse = shared_client(settings)
    report = RepairReport()
    with (
        run_lock(),
        DeribitClient(config) as client,
        open_session(settings) as exclusive,
        tally or ProgressBar() as tally,
    ):
        gaps = find_gaps(clickhouse, scope)
        wanted = [gap for gap in gaps if again or not (gap.known_absent or gap.rejected)]
        if wanted:
            client.now_ms()  # an exchange that is not there is told at once
        report.ranges, report.wanted = len(wanted), sum(map(len, wanted))
        tally.start(report.wanted, "trades")
        queue = RepairQueue(client, wanted, config.requests_in_flight)
        while not queue.is_empty:
            package = WindowReport()
            exclusive.run(repaired(client, queue, config.window_trades, package, tally))
            report.add(package)
        if wanted:
            gaps = find_gaps(clickhouse, scope)
        report.remaining = [gap for gap in gaps if not gap.known_absent]
        report.requests = client.stats.requests
    report.seconds = time.monotonic() - started_s
    return report


class RepairQueue:
    """Gaps still to be fetched, several instruments at once; a package takes from it until its budget is spent."""

    def __init__(self, client: DeribitClient, gaps: Iterable[Gap], in_flight: int) -> None:
        self._client = client
        self._in_flight = in_flight
        gaps = list(gaps)
        self._stream_of = {gap.range.instrument_name: gap.stream for gap in gaps}
        self._waiting = deque(repairs(client, [gap.range for gap in gaps]))

    @property
    def is_empty(self) -> bool:
        return not self._waiting

    def take(self, budget: int) -> Iterator[tuple[Stream, RepairResult]]:
        """What comes of the gaps, a few pages at a time, until there are `budget` trades or no gaps."""
        under_way: dict[Future[RepairResult], InstrumentRepair] = {}
        taken = 0
        with ThreadPoolExecutor(self._in_flight, thread_name_prefix="deribit") as pool:
            try:
                while True:
                    while self._waiting and len(under_way) < self._in_flight and taken < budget:
                        each = self._waiting.popleft()
                        under_way[pool.submit(each.step)] = each
                    if not under_way:
                        return
                    done, _ = wait(under_way, return_when=FIRST_COMPLETED)
                    for future in done:
                        each = under_way.pop(future)
                        result = future.result()
                        if not each.is_done:
                            self._waiting.appendleft(each)
                        taken += result.table.num_rows
                        yield self._stream_of[each.instrument_name], result
            except BaseException:
                self._client.cancel()
                pool.shutdown(wait=False, cancel_futures=True)
                raise


@dlt.source(name="deribit", max_table_nesting=0)
def repaired(
    client: DeribitClient, queue: RepairQueue, budget: int, report: WindowReport, tally: ProgressBar
) -> tuple[DltResource, ...]:
    """One package of a repair, in the tables of a run; fills `report`. The state of a run is not touched."""

    filled: WindowReport | None = None

    @dlt.resource(name="trades", write_disposition="append")
    def trades() -> Iterator[Any]:
        nonlocal filled
        require_same_exchange(dlt.current.source_state(), client.exchange)
        for stream, piece in queue.take(budget):
            report.trades += piece.table.num_rows
            report.absent += [Absent(stream, missing) for missing in piece.absent]
            report.rejected += [(stream, rejected) for rejected in piece.rejected]
            tally.add(piece.table.num_rows + sum(map(len, piece.absent)))
            if piece.table.num_rows:
                yield with_stream_columns(piece.table, stream.currency, stream.kind)
        filled = report

    return (
        trades(),
        report_resource(REJECTED_TRADES, lambda: filled, rejected_rows),
        report_resource(ABSENT_TRADES, lambda: filled, absent_rows),
    )
