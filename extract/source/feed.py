"""Windows of trades, one for each load package, with the instruments that changed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any

import pyarrow as pa

from extract.deribit.client import DeribitClient
from extract.deribit.instruments import InstrumentsReport, LoadedRows, changed_instruments
from extract.deribit.streams import Stream
from extract.errors import OutsideError
from extract.source.recorded import IDLE_GROWTH_MS, Recorded
from extract.source.trade_file import TradeFile
from extract.sweep.prefetch import prefetch
from extract.sweep.state import SeqLookup, StreamState, read_states
from extract.sweep.universe import Universe, relist
from extract.sweep.window import SweepRequest, WindowDiscardedError, WindowReport
from extract.sweep.windows import WindowItem, WindowResult, sweep_windows

PREFETCHED_BATCHES = 60
"""Batches of trades fetched in advance, on disk except the next one: what is fetched while a window is loaded."""

Row = dict[str, Any]


@dataclass
class Window:
    """One window. `states` are those of the last load package, by stream name; `known` is the state of `instruments`.

    `write` has to be called once; it sets `result`, and `listing` is complete when all `rows` have been read.
    `before_load` receives the id of the load package, before anything of it is loaded. `traded`: names of instruments
    with new trades, by stream, once the trades are written. `recorded`: what load packages have recorded of odd answers.
    `has_new_known`: whether `known` has changed before the window, so that the next run would request the same again.
    """

    items: Iterator[WindowItem]
    states: dict[str, Any]
    known: Row
    rows: Iterator[Row]
    listing: InstrumentsReport
    exchange: str
    before_load: Callable[[str], None]
    traded: dict[Stream, set[str]] = field(default_factory=dict)
    recorded: Recorded = field(default_factory=Recorded)
    has_new_known: bool = False
    result: WindowResult | None = None
    _first: WindowItem | None = None

    @property
    def is_idle(self) -> bool:
        """Whether a load package would hold nothing but a few minutes of covered time; `result` is set if so."""
        if not isinstance(first := self._peek(), WindowResult):
            return False
        report = first.report
        row = next(self.rows, None)
        self.rows = chain(() if row is None else (row,), self.rows)
        if row is not None or self.listing.rejected or self.has_new_known:
            return False
        self._leave_out_recorded(report)
        if report.rejected or report.absent or report.unproven:
            return False
        if any(self._growth_ms(name, state) >= IDLE_GROWTH_MS for name, state in first.states.items()):
            return False
        self.result = first
        return True

    def write(self, file: TradeFile) -> WindowResult:
        """Write the trades to `file`."""
        self.items = chain([self._peek()], self.items)
        for item in self.items:
            if isinstance(item, pa.Table):
                file.write(item)
            elif isinstance(item, WindowDiscardedError):
                file.clear()
            else:
                self.result = item
                self.traded |= item.report.traded
                self._leave_out_recorded(item.report)
                self.recorded.forget(item.states.keys())
                self.recorded.add(item.report.rejected, item.report.unproven)
                file.close()
                return item
        raise AssertionError("a window ends with its result")

    def _leave_out_recorded(self, report: WindowReport) -> None:
        report.rejected = self.recorded.new_rejected(report.rejected)
        report.unproven = self.recorded.new_unproven(report.unproven)

    def changed_states(self) -> dict[str, Any]:
        """New states by stream name, of streams with new rows or at least IDLE_GROWTH_MS of new covered time."""
        assert self.result is not None
        report = self.result.report
        streams = {stream for stream, trades in report.by_stream.items() if trades}
        streams |= {each.stream for each in report.absent} | {stream for stream, _ in report.rejected}
        names = set(map(str, streams))
        return {
            name: state
            for name, state in self.result.states.items()
            if name in names or report.repaired or self._growth_ms(name, state) >= IDLE_GROWTH_MS
        }

    def _growth_ms(self, name: str, state: Mapping[str, Any]) -> float:
        if name not in self.states:
            return float("inf")
        return StreamState.from_json(state).covered_ms - StreamState.from_json(self.states[name]).covered_ms

    def _peek(self) -> WindowItem:
        while self._first is None or isinstance(self._first, WindowDiscardedError):
            self._first = next(self.items)
        return self._first


def spill_table(directory: str, item: WindowItem) -> Callable[[], WindowItem]:
    """Write a table to a file, and return a function that reads it and deletes the file.

    Raises OutsideError where it cannot be written, for example if the disk is full.
    """
    if not isinstance(item, pa.Table):
        return lambda: item
    try:
        descriptor, path = tempfile.mkstemp(dir=directory, suffix=".arrow")
        with open(descriptor, "wb") as file, pa.ipc.new_stream(file, item.schema) as writer:
            writer.write_table(item)
    except OSError as error:
        raise OutsideError(f"Fetched trades cannot be stored in {directory}: {error}") from error

    def read() -> WindowItem:
        with pa.memory_map(path) as file, pa.ipc.open_stream(file) as reader:
            os.unlink(path)
            return reader.read_all()

    return read


@dataclass
class WindowFeed:
    """Sweeps windows until everything requested is covered; `windows` may be called again for what is new since.

    `stored` and `known`: states of the last load package, by stream name and of `instruments`. `spool`: directory for
    pages that are fetched in advance by a background thread; without it, each window is fetched when it is read.
    `lists_instruments`: whether to list instruments with each window. `recorded`: the state of `rejected_trades`.
    """

    client: DeribitClient
    universe: Universe
    request: SweepRequest
    now_ms: int
    stored: dict[str, Any] = field(default_factory=dict)
    known: Row = field(default_factory=dict)
    lookup_of: Callable[[Stream], SeqLookup | None] = lambda stream: None
    loaded_rows: LoadedRows | None = None
    spool: str | None = None
    lists_instruments: bool = True
    recorded: Recorded = field(default_factory=Recorded)
    before_load: Callable[[str], None] = lambda load_id: None
    listing: InstrumentsReport = field(default_factory=InstrumentsReport)

    def __post_init__(self) -> None:
        self._states = read_states(self.stored, self.universe.streams, self.lookup_of)
        self._has_new_known = self.universe.is_expired_new
        if self.universe.is_expired_new:
            streams = [str(each) for each in self.universe.expired or ()]
            self.known[self.universe.expired_name] = {"asked_ms": self.now_ms, "streams": streams}
        self._is_list_current = True

    def windows(self) -> Generator[Window]:
        """Yield each window; the caller reads it to its end, or `is_idle` returns True, before the next one."""
        if self.lists_instruments and not self._is_list_current:
            self.universe = relist(self.universe, self.client)
        self._is_list_current = False
        universe = self.universe
        request = replace(self.request, kind_of=universe.kind_of, unoffered=universe.unoffered)
        items: Generator[WindowItem] = sweep_windows(
            self.client, request, self._states, self._new_state if universe.has_all_kinds else None
        )
        if self.spool:
            spill = partial(spill_table, self.spool)
            items = prefetch(
                items,
                depth=PREFETCHED_BATCHES,
                cancel=self.client.cancel,
                spill=spill,
                # Contradictory numbers are compared with the loaded trades: those of earlier windows have to be loaded.
                waits_after=lambda item: isinstance(item, WindowDiscardedError),
            )
        with closing(items):
            is_final = False
            while not is_final:
                traded: dict[Stream, set[str]] = {}
                window = Window(
                    items,
                    self.stored,
                    self.known,
                    self._changed_instruments(traded),
                    self.listing,
                    self.client.exchange,
                    self.before_load,
                    traded,
                    self.recorded,
                    self._has_new_known,
                )
                yield window
                self._has_new_known = False
                assert window.result is not None, "the window was read"
                is_final = window.result.is_final
            for _ in items:  # ends it without `cancel`
                pass

    def _new_state(self, stream: Stream) -> StreamState:
        return read_states({}, [stream], self.lookup_of)[stream]

    def _changed_instruments(self, traded: Mapping[Stream, set[str]]) -> Iterator[Row]:
        return changed_instruments(
            self.client,
            self.universe.streams if self.lists_instruments else (),
            self.known,
            self.now_ms,
            self.listing,
            listed=self.universe.listed,
            traded=traded,
            loaded_rows=self.loaded_rows,
            odd_currencies=self.universe.rejected,
        )
