"""Iterate over windows until all streams are covered; one window becomes one load package.

All windows are one generator, so that `prefetch` can fetch a window while the previous one is written and loaded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import pyarrow as pa

from extract.deribit.client import MAX_CLOCK_DIFFERENCE_MS, DeribitClient
from extract.deribit.streams import Stream
from extract.errors import FinalError, TapeError
from extract.sweep.border import HistoryEnds
from extract.sweep.contradictions import REASON
from extract.sweep.slices import SliceSizer
from extract.sweep.state import SeqLookup, Span, StreamState
from extract.sweep.stream_window import SETTLE_MS, StreamSweep
from extract.sweep.window import (
    SweepRequest,
    WindowDiscardedError,
    WindowReport,
    require_concerns_stream,
    sweep_window,
)
from extract.times import iso

VISIT_MS = 15 * 60_000
"""Newest time that is fetched before older time is covered, the first time."""
BATCH_ROWS = 20_000
"""Trades per table, because dlt has a cost per table."""


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
    client: DeribitClient,
    request: SweepRequest,
    states: dict[Stream, StreamState],
    new_state: Callable[[Stream], StreamState] | None = None,
) -> Generator[WindowItem]:
    """Yield each window's tables in ARROW_SCHEMA, then its WindowResult. Updates `states`, which has all streams.

    A WindowDiscardedError in between discards the window's tables: its sweep begins again. A stream that was set aside
    is not requested again. If every stream was, a last result has their unproven time, and the first error is raised.
    `new_state` returns the state of a stream that trades of all kinds show and that `states` lacks, which is added; None
    if there is to be none, because kinds are selected.
    """
    loaded = {stream: state.lookup if request.again else None for stream, state in states.items()}
    if request.again:
        states = {stream: state.to_read_again() for stream, state in states.items() if state.covered}
        request = replace(request, until_ms=request.until_ms or client.now_ms())
    sizers: dict[Stream, SliceSizer] = {}
    history = HistoryEnds(client, dict.fromkeys(stream.currency for stream in states), request.unoffered)
    set_aside: dict[Stream, TapeError] = {}
    is_final = False
    visited_s = request.machine_s()
    is_visit, slices = False, 0
    suspects: dict[Stream, frozenset[str]] = {}
    recorded: set[Stream] = set()
    resweeps: Counter[Stream] = Counter()

    def is_visit_due() -> bool:
        return request.until_ms is None and request.machine_s() - visited_s >= request.visit_every_s

    def on_slice(stream: Stream, rows: int, end_ms: int) -> None:
        nonlocal slices
        slices += 1
        request.on_slice(stream, rows, end_ms)

    def should_stop() -> bool:
        # Also where visits take longer than the time between them, each other window makes progress: those streams that
        # are nearly covered have one slice.
        return request.should_stop() or (is_visit_due() and slices > len(states))

    while not is_final:
        is_visit, slices = not is_visit and is_visit_due(), 0
        if is_visit:
            visited_s = request.machine_s()
        active = {stream: state for stream, state in states.items() if stream not in set_aside}
        report = WindowReport(set_aside=set_aside)
        sweeps: list[StreamSweep] = []
        try:
            sweeps += _stream_sweeps(
                client, request, active, sizers, history, set_aside, is_visit, suspects, loaded
            )
            yield from sweep_window(
                client,
                sweeps,
                replace(request, on_slice=on_slice, should_stop=should_stop, batch_rows=BATCH_ROWS),
                report,
                resweeps,
            )
        except WindowDiscardedError as error:
            yield error
            suspects |= report.suspects
            if not client.is_cancelled and set_aside.keys() < states.keys():
                is_visit = False
                continue
            sweeps, report = [], WindowReport(set_aside=set_aside)
        except FinalError:
            if not (client.is_cancelled and request.should_stop()):
                raise
        for stream in report.unlisted.values():
            if new_state and stream not in states:
                states[stream], loaded[stream] = new_state(stream), None
                report.is_last = False
        has_failed = bool(states) and set_aside.keys() >= states.keys()
        is_final = report.is_last or request.should_stop() or has_failed
        new_states = {
            str(sweep.stream): sweep.state.to_json()
            for sweep in sweeps
            if sweep.stream not in set_aside.keys() | report.interrupted
        }
        # The next run has to know a new stream, also if this one is interrupted.
        new_states |= {
            str(stream): state.to_json()
            for stream, state in states.items()
            if stream not in active and stream not in set_aside
        }
        end_ms = 0
        if set_aside.keys() > recorded:
            end_ms = request.until_ms or client.now_ms() - SETTLE_MS
        for stream in set_aside.keys() - recorded:
            wanted = states[stream].wanted(request.since_ms, end_ms)
            report.unproven += [(stream, span, set_aside[stream]) for span in wanted]
        recorded |= set_aside.keys()
        suspects, resweeps = {}, Counter()
        if request.again:  # what is absent or unreadable was so before
            report.rejected = [each for each in report.rejected if each[1].reason == REASON]
            report.absent, report.covered, new_states = [], [], {}
        yield WindowResult(report, new_states, is_final)
        if has_failed:
            raise next(iter(set_aside.values()))
        sizers |= {sweep.stream: sweep.sizer for sweep in sweeps if sweep.sizer}


def _stream_sweeps(
    client: DeribitClient,
    request: SweepRequest,
    states: dict[Stream, StreamState],
    sizers: dict[Stream, SliceSizer],
    history: HistoryEnds,
    set_aside: dict[Stream, TapeError],
    is_visit: bool,
    suspects: dict[Stream, frozenset[str]],
    loaded: Mapping[Stream, SeqLookup | None],
) -> Iterator[StreamSweep]:
    """A sweep of each stream that is not covered yet; adds those whose history cannot be determined to `set_aside`.

    It is of the oldest missing time, or, in a visit, of the newest.
    """
    now_ms = client.now_ms()
    if not client.is_sandbox:
        machine_ms = round(request.machine_s() * 1000)
        require_same_time(now_ms, machine_ms)
        now_ms = min(now_ms, machine_ms)  # time that one of the clocks has not reached may have no trades yet
    for stream, state in states.items():
        try:
            until_ms = min(request.until_ms or now_ms, history.reach_ms(stream, now_ms))
            wanted = state.wanted(request.since_ms, until_ms)
            if not wanted:
                continue
            span = wanted[0]
            if is_visit:
                span = Span(max(wanted[-1].start_ms, now_ms - VISIT_MS), wanted[-1].end_ms)
            has_more_spans = len(wanted) > 1 or span != wanted[0]
            if request.until_ms is None:
                state.note_missing(wanted[0].start_ms if has_more_spans else None, request.since_ms)
            border = history.border(stream, span.start_ms, now_ms)
        except TapeError as error:
            require_concerns_stream(client, error)
            if client.is_cancelled:
                raise
            set_aside[stream] = error
            continue
        yield StreamSweep(
            client,
            stream,
            state,
            span,
            now_ms,
            has_more_spans=has_more_spans,
            sizer=sizers.get(stream),
            border=border,
            suspects=suspects.get(stream, frozenset()),
            loaded=loaded[stream],
        )


def require_same_time(exchange_ms: int, machine_ms: float) -> None:
    """Raise FinalError if the clocks differ: time that has not passed would be covered without its trades, and what the
    exchange lacks would count as absent too early."""
    if abs(exchange_ms - machine_ms) > MAX_CLOCK_DIFFERENCE_MS:
        raise FinalError(
            f"The exchange's clock shows {iso(exchange_ms)} and this computer's {iso(int(machine_ms))}: correct this "
            "computer's clock, or wait until the exchange has corrected its own."
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
