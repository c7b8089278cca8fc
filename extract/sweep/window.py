"""Load one window of several streams: fetch its slices, check sequence numbers, fetch what is missing.

Slices are fetched concurrently until the window holds enough trades. Then the proof over `trade_seq` (`ledger`) lists
missing trades, and `repair` fetches them. Only after that the state marks the time as covered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa

from extract.deribit.arrow import count_unknown_fields
from extract.deribit.client import DeribitClient
from extract.deribit.schema import RejectedTrade
from extract.deribit.streams import Stream
from extract.sweep.fetch_slice import SliceResult, sweep_slice
from extract.sweep.ledger import SeqRange
from extract.sweep.repair import RepairQueue, repairs
from extract.sweep.scheduler import Task, run_all
from extract.sweep.slices import Slice, SlicePlanner
from extract.sweep.state import Span
from extract.sweep.stream_window import StreamSweep


@dataclass
class Absent:
    """A range of trades that the exchange does not have."""

    stream: Stream
    range: SeqRange


@dataclass
class WindowReport:
    """Result of one window. `trades` counts the rows yielded, including `restated` and `repaired` ones.

    `unknown_fields` counts rows by the name of each field that has no column. `known` counts trades skipped because
    they are already loaded. `is_last`: every stream is covered.
    """

    trades: int = 0
    repaired: int = 0
    known: int = 0
    restated: int = 0
    rejected: list[tuple[Stream, RejectedTrade]] = field(default_factory=list)
    absent: list[Absent] = field(default_factory=list)
    unknown_fields: Counter[str] = field(default_factory=Counter)
    covered: list[tuple[Stream, Span]] = field(default_factory=list)
    is_last: bool = False


OnSlice = Callable[[Stream, int, int], None]
ShouldStop = Callable[[], bool]


def sweep_window(
    client: DeribitClient,
    sweeps: Sequence[StreamSweep],
    *,
    in_flight: int,
    max_trades: int,
    report: WindowReport,
    on_slice: OnSlice = lambda stream, rows, end_ms: None,
    should_stop: ShouldStop = lambda: False,
) -> Iterator[pa.Table]:
    """Tables of new trades in ARROW_SCHEMA; fills `report`, and updates the streams' states after the last table.

    Once the window holds `max_trades` trades or `should_stop` returns True, no newer slice starts: those that have
    started are finished, so that the window ends without a gap.
    """
    slices = _SliceQueue(client, sweeps, max_trades, report, on_slice, should_stop)
    for table in run_all(slices.next_task, in_flight=in_flight, cancel=client.cancel):
        if table.num_rows:
            yield table
    for sweep in sweeps:
        sweep.close()
    repairing = RepairQueue((sweep, each) for sweep in sweeps for each in repairs(client, sweep.missing()))
    for sweep, result in repairing.run(in_flight=in_flight, cancel=client.cancel):
        table, rejected, absent = sweep.accept_repair(result)
        report.absent += [Absent(sweep.stream, missing) for missing in absent]
        report.repaired += table.num_rows
        _add_trades(report, sweep.stream, table, rejected)
        if table.num_rows:
            yield table
    for sweep in sweeps:
        before = set(sweep.state.covered)
        sweep.commit()
        report.covered += [(sweep.stream, span) for span in sweep.state.covered if span not in before]
    report.known = sum(sweep.known for sweep in sweeps)
    report.restated = sum(sweep.restated for sweep in sweeps)
    report.is_last = all(sweep.is_finished for sweep in sweeps)


@dataclass
class _SliceQueue:
    """The slices of all streams in the order in which they are fetched."""

    client: DeribitClient
    sweeps: Sequence[StreamSweep]
    max_trades: int
    report: WindowReport
    on_slice: OnSlice
    should_stop: ShouldStop

    def next_task(self) -> Task[SliceResult, pa.Table] | None:
        drain_only = self.report.trades >= self.max_trades or self.should_stop()
        for sweep in self.sweeps:
            if step := sweep.next_slice(drain_only=drain_only):
                host, planner, part = step
                return Task(
                    partial(sweep_slice, self.client, host, sweep.stream, part),
                    partial(self._accept, sweep, planner, part),
                )
        return None

    def _accept(
        self, sweep: StreamSweep, planner: SlicePlanner, part: Slice, result: SliceResult
    ) -> pa.Table:
        table, rejected = sweep.accept_slice(planner, part, result)
        _add_trades(self.report, sweep.stream, table, rejected)
        self.on_slice(sweep.stream, table.num_rows, result.end_ms)
        return table


def _add_trades(
    report: WindowReport, stream: Stream, table: pa.Table, rejected: Sequence[RejectedTrade]
) -> None:
    report.trades += table.num_rows
    report.unknown_fields += count_unknown_fields(table)
    report.rejected += [(stream, bad) for bad in rejected]
