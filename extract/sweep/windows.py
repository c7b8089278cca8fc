"""A run's windows, one after another: each as much as one load package holds, until its streams are covered.

They are one flow of tables, so that `prefetch` can sweep the next window while the one before is written and loaded.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from extract.deribit.client import DeribitClient
from extract.deribit.streams import Stream
from extract.sweep.slices import SliceSizer
from extract.sweep.state import StreamState
from extract.sweep.stream_window import StreamSweep
from extract.sweep.window import OnSlice, ShouldStop, WindowReport, sweep_window

BATCH_ROWS = 100_000
"""Trades handed on at once: what dlt does for each table is dear."""


@dataclass(frozen=True)
class SweepRequest:
    """What a run is to sweep of its streams: the time asked for, and how much of it at once.

    None for `since_ms` is where a stream's state stands, for `until_ms` the time at which each window begins. Once
    `should_stop`, the window at work is closed early and is the last one.
    """

    since_ms: int | None = None
    until_ms: int | None = None
    in_flight: int = 4
    max_trades: int = 1_000_000
    on_slice: OnSlice = lambda stream, rows, end_ms: None
    should_stop: ShouldStop = lambda: False


@dataclass
class WindowResult:
    """What a window came to, after its last table. `states` are those of its streams from now on, as plain JSON.

    `is_final`: no other window follows.
    """

    report: WindowReport
    states: dict[str, Any]
    is_final: bool


WindowItem = pa.Table | WindowResult


def sweep_windows(
    client: DeribitClient, order: SweepRequest, states: dict[Stream, StreamState]
) -> Generator[WindowItem]:
    """Each window's tables in `record.ARROW_SCHEMA`, then its end; of the streams that have `states`, which move along."""
    sizers: dict[Stream, SliceSizer] = {}
    is_final = False
    while not is_final:
        sweeps = list(_sweeps(client, order, states, sizers))
        report = WindowReport()
        yield from in_batches(
            sweep_window(
                client,
                sweeps,
                in_flight=order.in_flight,
                max_trades=order.max_trades,
                report=report,
                on_slice=order.on_slice,
                should_stop=order.should_stop,
            )
        )
        is_final = report.is_last or order.should_stop()
        yield WindowResult(report, {str(sweep.stream): sweep.state.to_json() for sweep in sweeps}, is_final)
        sizers = {sweep.stream: sweep.sizer for sweep in sweeps if sweep.sizer}


def _sweeps(
    client: DeribitClient,
    order: SweepRequest,
    states: dict[Stream, StreamState],
    sizers: dict[Stream, SliceSizer],
) -> Iterator[StreamSweep]:
    now_ms = client.now_ms()
    for stream, state in states.items():
        wanted = state.wanted(order.since_ms, order.until_ms or now_ms)
        if wanted:
            yield StreamSweep(
                client,
                stream,
                state,
                wanted[0],
                now_ms,
                more=len(wanted) > 1,
                sizer=sizers.get(stream),
            )


def in_batches(tables: Iterable[pa.Table], rows: int = BATCH_ROWS) -> Generator[pa.Table]:
    """The same rows in tables of at least `rows`, but for the last."""
    waiting: list[pa.Table] = []
    count = 0
    for table in tables:
        waiting.append(table)
        count += table.num_rows
        if count >= rows:
            yield pa.concat_tables(waiting)
            waiting, count = [], 0
    if waiting:
        yield pa.concat_tables(waiting)


@dataclass
class WindowReader:
    """What one load package takes of the flow: a window, whose `end` and `report` are there after its last table."""

    flow: Iterator[WindowItem]
    end: WindowResult | None = None

    @property
    def report(self) -> WindowReport | None:
        return self.end.report if self.end else None

    def tables(self) -> Iterator[pa.Table]:
        """The window's tables."""
        for item in self.flow:
            if isinstance(item, WindowResult):
                self.end = item
                return
            yield item
