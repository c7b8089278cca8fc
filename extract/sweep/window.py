"""One window: streams of trades swept by time, several slices under way at once, up to a budget of trades.

A window is: slices by time (`slices`, `paging`), then the proof over `trade_seq` (`proof`), then the fetch of what
the proof found missing (`repair`). Only then does the state say that the time is covered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import pyarrow as pa

from extract.deribit.client import DeribitClient
from extract.deribit.schema import RejectedTrade, count_unknown_fields
from extract.deribit.streams import Stream
from extract.sweep.fetch_slice import SliceResult, sweep_slice
from extract.sweep.ledger import SeqRange
from extract.sweep.repair import InstrumentRepair, RepairResult, repairs
from extract.sweep.slices import Slice, SlicePlanner
from extract.sweep.state import Span
from extract.sweep.stream_window import StreamSweep


@dataclass
class Absent:
    """A range that the exchange does not have."""

    stream: Stream
    range: SeqRange


@dataclass
class WindowReport:
    """What one window came to. `trades` counts rows handed out, `restated` and `repaired` ones included.

    `unknown_fields` counts those of them that bear a field that no column knows.
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
    """Tables of new trades; fills `report`, and moves the streams' states when the last table has been taken.

    The window closes once it holds `max_trades` trades or `should_stop`: what is under way is finished, nothing newer begun.
    """
    with ThreadPoolExecutor(in_flight, thread_name_prefix="deribit") as pool:
        try:
            yield from SliceScheduler(
                client, sweeps, pool, in_flight, max_trades, report, on_slice, should_stop
            ).tables()
            yield from _repairs(client, sweeps, pool, in_flight, report)
        except BaseException:
            client.cancel()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    for sweep in sweeps:
        before = set(sweep.state.covered)
        sweep.commit()
        report.covered += [(sweep.stream, span) for span in sweep.state.covered if span not in before]
    report.known = sum(sweep.known for sweep in sweeps)
    report.restated = sum(sweep.restated for sweep in sweeps)
    report.is_last = all(sweep.is_finished for sweep in sweeps)


@dataclass
class SliceScheduler:
    """The slices of all streams, `in_flight` of them under way."""

    client: DeribitClient
    sweeps: Sequence[StreamSweep]
    pool: ThreadPoolExecutor
    in_flight: int
    max_trades: int
    report: WindowReport
    on_slice: OnSlice
    should_stop: ShouldStop
    under_way: dict[Future[SliceResult], tuple[StreamSweep, SlicePlanner, Slice]] = field(
        default_factory=dict
    )

    def tables(self) -> Iterator[pa.Table]:
        self._submit()
        while self.under_way:
            done, _ = wait(self.under_way, return_when=FIRST_COMPLETED)
            tables = [table for future in done if (table := self._take(future)).num_rows]
            self._submit()  # before the tables, whose taker may take its time
            yield from tables

    def _submit(self) -> None:
        drain_only = self.report.trades >= self.max_trades or self.should_stop()
        for sweep in self.sweeps:
            while len(self.under_way) < self.in_flight and (step := sweep.next(drain_only=drain_only)):
                host, planner, part = step
                future = self.pool.submit(sweep_slice, self.client, host, sweep.stream, part)
                self.under_way[future] = (sweep, planner, part)

    def _take(self, future: Future[SliceResult]) -> pa.Table:
        sweep, planner, part = self.under_way.pop(future)
        result = future.result()
        table, rejected = sweep.take(planner, part, result)
        self.report.trades += table.num_rows
        self.report.unknown_fields += count_unknown_fields(table)
        self.report.rejected += [(sweep.stream, bad) for bad in rejected]
        self.on_slice(sweep.stream, table.num_rows, result.end_ms)
        return table


def _repairs(
    client: DeribitClient,
    sweeps: Sequence[StreamSweep],
    pool: ThreadPoolExecutor,
    in_flight: int,
    report: WindowReport,
) -> Iterator[pa.Table]:
    """Tables of what the proof found missing; instruments side by side, each a few pages at a time."""
    for sweep in sweeps:
        sweep.close()
    waiting = [(sweep, each) for sweep in sweeps for each in repairs(client, sweep.missing())]
    waiting.reverse()
    under_way: dict[Future[RepairResult], tuple[StreamSweep, InstrumentRepair]] = {}
    while waiting or under_way:
        while waiting and len(under_way) < in_flight:
            sweep, each = waiting.pop()
            under_way[pool.submit(each.step)] = (sweep, each)
        done, _ = wait(under_way, return_when=FIRST_COMPLETED)
        for future in done:
            sweep, each = under_way.pop(future)
            table, rejected, absent = sweep.accept_repair(future.result())
            if not each.is_done:
                waiting.append((sweep, each))
            report.rejected += [(sweep.stream, bad) for bad in rejected]
            report.absent += [Absent(sweep.stream, missing) for missing in absent]
            report.trades += table.num_rows
            report.repaired += table.num_rows
            report.unknown_fields += count_unknown_fields(table)
            if table.num_rows:
                yield table
