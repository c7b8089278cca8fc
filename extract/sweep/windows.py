"""Iterate over windows until all streams are covered; one window becomes one load package.

All windows are one generator, so that `prefetch` can fetch a window while the previous one is written and loaded.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa

from extract.deribit.client import DeribitClient
from extract.deribit.streams import Stream
from extract.errors import FinalError, TapeError
from extract.sweep.slices import SliceSizer
from extract.sweep.state import StreamState
from extract.sweep.stream_window import StreamSweep
from extract.sweep.window import OnSlice, ShouldStop, WindowDiscardedError, WindowReport, sweep_window

BATCH_ROWS = 100_000
"""Trades per table, because dlt has a cost per table."""


@dataclass(frozen=True)
class SweepRequest:
    """The time to load, and limits for each window.

    `since_ms` is by default the end of a stream's covered time, `until_ms` the time at which each window starts. Once
    `should_stop` returns True, the current window is closed early and is the last one.
    """

    since_ms: int | None = None
    until_ms: int | None = None
    in_flight: int = 4
    max_trades: int = 1_000_000
    on_slice: OnSlice = lambda stream, rows, end_ms: None
    should_stop: ShouldStop = lambda: False


@dataclass
class WindowResult:
    """Result of a window, after its last table. `states`: the new states of its streams as plain JSON.

    `is_final`: no other window follows.
    """

    report: WindowReport
    states: dict[str, Any]
    is_final: bool


WindowItem: TypeAlias = pa.Table | WindowResult | WindowDiscardedError


def sweep_windows(
    client: DeribitClient, request: SweepRequest, states: dict[Stream, StreamState]
) -> Generator[WindowItem]:
    """Yield each window's tables in ARROW_SCHEMA, then its WindowResult. Updates `states`, which has all streams.

    A WindowDiscardedError in between discards the window's tables: its sweep begins again. A stream that was set aside
    is not requested again. Raises its error if every stream was.
    """
    sizers: dict[Stream, SliceSizer] = {}
    set_aside: dict[Stream, TapeError] = {}
    is_final = False
    while not is_final:
        active = {stream: state for stream, state in states.items() if stream not in set_aside}
        report = WindowReport(set_aside=set_aside)
        sweeps: list[StreamSweep] = []
        try:
            sweeps += _stream_sweeps(client, request, active, sizers)
            yield from sweep_window(
                client,
                sweeps,
                in_flight=request.in_flight,
                max_trades=request.max_trades,
                report=report,
                on_slice=request.on_slice,
                should_stop=request.should_stop,
                batch_rows=BATCH_ROWS,
            )
        except WindowDiscardedError as error:
            if set_aside.keys() >= states.keys():
                raise next(iter(set_aside.values())) from None
            yield error
            if not client.is_cancelled:
                continue
            sweeps, report = [], WindowReport(set_aside=set_aside)
        except FinalError:
            if not (client.is_cancelled and request.should_stop()):
                raise
        if set_aside.keys() >= states.keys() > set():
            raise next(iter(set_aside.values()))
        is_final = report.is_last or request.should_stop()
        new_states = {
            str(sweep.stream): sweep.state.to_json()
            for sweep in sweeps
            if sweep.stream not in set_aside.keys() | report.interrupted
        }
        yield WindowResult(report, new_states, is_final)
        sizers = {sweep.stream: sweep.sizer for sweep in sweeps if sweep.sizer}


def _stream_sweeps(
    client: DeribitClient,
    request: SweepRequest,
    states: dict[Stream, StreamState],
    sizers: dict[Stream, SliceSizer],
) -> Iterator[StreamSweep]:
    now_ms = client.now_ms()
    for stream, state in states.items():
        wanted = state.wanted(request.since_ms, request.until_ms or now_ms)
        if wanted:
            yield StreamSweep(
                client,
                stream,
                state,
                wanted[0],
                now_ms,
                has_more_spans=len(wanted) > 1,
                sizer=sizers.get(stream),
            )


@dataclass
class WindowReader:
    """Reads the next window from the items of `sweep_windows`; `end` and `report` are set after its last table."""

    flow: Iterator[WindowItem]
    end: WindowResult | None = None

    @property
    def report(self) -> WindowReport | None:
        return self.end.report if self.end else None

    def tables(self) -> Iterator[pa.Table]:
        """Tables of the window in ARROW_SCHEMA. Raises WindowDiscardedError if they must not be loaded."""
        for item in self.flow:
            if isinstance(item, WindowResult):
                self.end = item
                return
            if isinstance(item, WindowDiscardedError):
                raise item
            yield item
