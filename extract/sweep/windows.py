"""A run's windows, one after another: each as much as one load package holds, until its streams are covered.

They are one flow of tables, so that `ahead` can sweep the next window while the one before is written and loaded.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from extract.deribit.client import DeribitClient
from extract.sweep.slices import Pace
from extract.sweep.state import Stream, StreamState
from extract.sweep.stream_window import StreamSweep
from extract.sweep.window import IsOver, OnSlice, WindowReport, sweep_window

BATCH_ROWS = 100_000
"""Trades handed on at once: what dlt does for each table is dear."""


@dataclass(frozen=True)
class Order:
    """What a run is to sweep of its streams: the time asked for, and how much of it at once.

    None for `since_ms` is where a stream's state stands, for `until_ms` the time at which each window begins. Once
    `is_over`, the window at work is closed early and is the last one.
    """

    since_ms: int | None = None
    until_ms: int | None = None
    in_flight: int = 4
    budget: int = 1_000_000
    on_slice: OnSlice = lambda stream, rows, end_ms: None
    is_over: IsOver = lambda: False


@dataclass
class WindowEnd:
    """What a window came to, after its last table. `states` are those of its streams from now on, as plain JSON.

    `is_final`: no other window follows.
    """

    report: WindowReport
    states: dict[str, Any]
    is_final: bool


Swept = pa.Table | WindowEnd


def sweep_windows(client: DeribitClient, order: Order, states: dict[Stream, StreamState]) -> Generator[Swept]:
    """Each window's tables in `record.ARROW_SCHEMA`, then its end; of the streams that have `states`, which move along."""
    paces: dict[Stream, Pace] = {}
    is_final = False
    while not is_final:
        sweeps = list(_sweeps(client, order, states, paces))
        report = WindowReport()
        yield from in_batches(
            sweep_window(
                client,
                sweeps,
                in_flight=order.in_flight,
                budget=order.budget,
                report=report,
                on_slice=order.on_slice,
                is_over=order.is_over,
            )
        )
        is_final = report.is_last or order.is_over()
        yield WindowEnd(report, {str(sweep.stream): sweep.state.to_json() for sweep in sweeps}, is_final)
        paces = {sweep.stream: sweep.pace for sweep in sweeps if sweep.pace}


def _sweeps(
    client: DeribitClient, order: Order, states: dict[Stream, StreamState], paces: dict[Stream, Pace]
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
                pace=paces.get(stream),
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
class Package:
    """What one load package takes of the flow: a window, whose `end` and `report` are there after its last table."""

    flow: Iterator[Swept]
    end: WindowEnd | None = None

    @property
    def report(self) -> WindowReport | None:
        return self.end.report if self.end else None

    def tables(self) -> Iterator[pa.Table]:
        """The window's tables."""
        for item in self.flow:
            if isinstance(item, WindowEnd):
                self.end = item
                return
            yield item
