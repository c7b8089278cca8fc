"""Load one window of several streams: fetch its slices, check sequence numbers, fetch what is missing.

Slices are fetched concurrently until the window holds enough trades. Then the proof over `trade_seq` (`ledger`) lists
missing trades, and `repair` fetches them. Only after that the state marks the time as covered. A stream that fails is
set aside, and the window continues with the others.
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
from extract.errors import OutsideError, ProofError, RetriableError, TapeError
from extract.sweep.fetch_slice import SliceResult, sweep_slice
from extract.sweep.ledger import SeqRange
from extract.sweep.repair import RepairQueue, repairs
from extract.sweep.scheduler import Task, run_all
from extract.sweep.slices import Slice, SlicePlanner
from extract.sweep.state import Span
from extract.sweep.stream_window import StreamSweep

BATCH_BYTES = 64 * 2**20
"""Size at which a batch of trades is passed on, whatever its rows: 100,000 usual trades have 20 MB."""
MAX_REJECTED_CHARS = 32 * 2**20
"""Text of rejected records after which a window is closed."""
MAX_REPAIRED = 1_000_000
"""Trades of a stream and window to fetch by number; a window has as many in all."""
MAX_FIELD_NAMES = 1_000


@dataclass
class Absent:
    """A range of trades that the exchange does not have."""

    stream: Stream
    range: SeqRange


@dataclass
class WindowReport:
    """Result of one window. `trades` counts the rows yielded, including `restated` and `repaired` ones.

    `unknown_fields` counts rows by the name of each field that has no column. `known` counts trades skipped because
    they are already loaded. `by_stream` counts `trades` that were not repaired. `is_last`: every stream is covered.
    `set_aside`: streams that failed in this window or before, with the error; nothing else is reported of them.
    `interrupted`: streams whose requests were cancelled because the run was stopped.
    """

    trades: int = 0
    by_stream: Counter[Stream] = field(default_factory=Counter)
    repaired: int = 0
    known: int = 0
    restated: int = 0
    rejected: list[tuple[Stream, RejectedTrade]] = field(default_factory=list)
    absent: list[Absent] = field(default_factory=list)
    unknown_fields: Counter[str] = field(default_factory=Counter)
    covered: list[tuple[Stream, Span]] = field(default_factory=list)
    set_aside: dict[Stream, TapeError] = field(default_factory=dict)
    interrupted: set[Stream] = field(default_factory=set)
    is_last: bool = False

    def add(self, part: WindowReport) -> None:
        """Add the figures of one stream."""
        self.trades += part.trades
        self.by_stream += part.by_stream
        self.repaired += part.repaired
        self.rejected += part.rejected
        self.absent += part.absent
        add_field_counts(self.unknown_fields, part.unknown_fields)


def add_field_counts(total: Counter[str], counts: Counter[str]) -> None:
    """Add to `total`, with at most MAX_FIELD_NAMES names: an exchange may send a new name with each trade."""
    for name, count in counts.items():
        if name in total or len(total) < MAX_FIELD_NAMES:
            total[name] += count


class WindowDiscardedError(TapeError):
    """A stream failed after some of its trades had been yielded: the window has to be swept again without it."""


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
    batch_rows: int = 1,
) -> Iterator[pa.Table]:
    """Tables of new trades in ARROW_SCHEMA; fills `report`, and updates the streams' states after the last table.

    Once the window holds `max_trades` trades or `should_stop` returns True, no newer slice starts: those that have
    started are finished, so that the window ends without a gap. Tables have at least `batch_rows` rows, or
    BATCH_BYTES, except the last.

    A stream whose answers cannot be used is set aside: its state does not change, its trades are not yielded, and the
    other streams continue. Raises WindowDiscardedError if some have been yielded, and the error itself if the exchange
    answers no request at all.
    """
    window = _Window(client, sweeps, in_flight, max_trades, report, on_slice, should_stop, batch_rows)
    yield from window.fetch_slices()
    for sweep in window.active:
        sweep.close()
    yield from window.repair()
    yield from window.batches.take()
    window.commit()


@dataclass
class _Batches:
    """Collects tables, so that those of a stream that fails can still be left out."""

    min_rows: int
    yielded: set[Stream] = field(default_factory=set)
    _waiting: list[tuple[Stream, pa.Table]] = field(default_factory=list)
    _rows: int = 0
    _bytes: int = 0

    def add(self, stream: Stream, table: pa.Table) -> Iterator[pa.Table]:
        if not table.num_rows:
            return
        self._waiting.append((stream, table))
        self._rows += table.num_rows
        self._bytes += table.nbytes
        if self._rows >= self.min_rows or self._bytes >= BATCH_BYTES:
            yield from self.take()

    def take(self) -> Iterator[pa.Table]:
        """One table of all that wait."""
        if self._waiting:
            self.yielded |= {stream for stream, _ in self._waiting}
            batch = pa.concat_tables([table for _, table in self._waiting])
            self._waiting, self._rows, self._bytes = [], 0, 0
            yield batch

    def drop(self, stream: Stream) -> None:
        """Leave out the tables of `stream` that wait."""
        waiting = [each for each in self._waiting if each[0] != stream]
        self._waiting, self._rows, self._bytes = [], 0, 0
        for kept, table in waiting:
            self._waiting.append((kept, table))
            self._rows += table.num_rows
            self._bytes += table.nbytes


@dataclass
class _Window:
    """The streams of one window, and a report of each."""

    client: DeribitClient
    sweeps: Sequence[StreamSweep]
    in_flight: int
    max_trades: int
    report: WindowReport
    on_slice: OnSlice
    should_stop: ShouldStop
    batch_rows: int

    def __post_init__(self) -> None:
        self.batches = _Batches(self.batch_rows)
        self.parts = {sweep.stream: WindowReport() for sweep in self.sweeps}
        self.rejected_chars = 0
        self.is_discarded = False

    @property
    def active(self) -> list[StreamSweep]:
        """Streams that are not set aside or interrupted."""
        excluded = self.report.set_aside.keys() | self.report.interrupted
        return [sweep for sweep in self.sweeps if sweep.stream not in excluded]

    def fetch_slices(self) -> Iterator[pa.Table]:
        for stream, table in run_all(self._next_slice, in_flight=self.in_flight, cancel=self.client.cancel):
            if stream in self.parts and not self.is_discarded:
                yield from self.batches.add(stream, table)
        self._require_not_discarded()

    def _next_slice(self) -> Task[SliceResult, tuple[Stream, pa.Table]] | None:
        trades = sum(part.trades for part in self.parts.values())
        is_full = trades >= self.max_trades or self.rejected_chars >= MAX_REJECTED_CHARS
        drain_only = is_full or self.should_stop()
        for sweep in self.active if not self.is_discarded else ():
            if step := sweep.next_slice(drain_only=drain_only):
                host, planner, part = step
                return Task(
                    partial(sweep_slice, self.client, host, sweep.stream, part),
                    partial(self._accept, sweep, planner, part),
                    partial(self._set_aside, sweep),
                )
        return None

    def _accept(
        self, sweep: StreamSweep, planner: SlicePlanner, part: Slice, result: SliceResult
    ) -> tuple[Stream, pa.Table]:
        table, rejected = sweep.accept_slice(planner, part, result)
        if sweep.stream in self.parts:
            self._add_trades(sweep.stream, table, rejected)
            self.parts[sweep.stream].by_stream[sweep.stream] += table.num_rows
            self.on_slice(sweep.stream, table.num_rows, result.end_ms)
        return sweep.stream, table

    def repair(self) -> Iterator[pa.Table]:
        """Fetch what is missing; trades that were set aside meanwhile are left out."""
        missing = {sweep.stream: sweep.missing() for sweep in self.active}
        by_stream = {sweep.stream: sweep for sweep in self.active}
        queue = RepairQueue(
            ((stream, each) for stream, ranges in missing.items() for each in repairs(self.client, ranges)),
            lambda stream, error: self._set_aside(by_stream[stream], error),
        )
        for stream, result in queue.run(in_flight=self.in_flight, cancel=self.client.cancel):
            if stream not in self.parts or self.is_discarded:
                queue.drop(stream)
                continue
            table, rejected, absent = by_stream[stream].accept_repair(result)
            part = self.parts[stream]
            part.absent += [Absent(stream, each) for each in absent]
            part.repaired += table.num_rows
            self._add_trades(stream, table, rejected)
            if part.repaired > MAX_REPAIRED:
                self._set_aside(
                    by_stream[stream],
                    ProofError(
                        f"The exchange sent more than {MAX_REPAIRED:,} {stream} trades by number that are not in its "
                        "pages by time."
                    ),
                )
                queue.drop(stream)
            else:
                yield from self.batches.add(stream, table)
        self._require_not_discarded()

    def _require_not_discarded(self) -> None:
        if self.is_discarded:
            raise WindowDiscardedError("The window is swept again without a stream that failed.")

    def _add_trades(self, stream: Stream, table: pa.Table, rejected: Sequence[RejectedTrade]) -> None:
        part = self.parts[stream]
        part.trades += table.num_rows
        add_field_counts(part.unknown_fields, count_unknown_fields(table))
        part.rejected += [(stream, bad) for bad in rejected]
        self.rejected_chars += sum(len(bad.raw) for bad in rejected)

    def _set_aside(self, sweep: StreamSweep, error: TapeError) -> None:
        """Leave `sweep` out of the window. Raises `error` if it does not concern the stream alone."""
        stream = sweep.stream
        if not isinstance(error, (OutsideError, ProofError)):
            raise error
        if isinstance(error, RetriableError) and stream not in self.report.set_aside:
            try:
                for host in (self.client.live, self.client.history):
                    self.client.require_answer(host)
            except OutsideError:
                if not self.client.is_cancelled:
                    raise error from None
        if self.client.is_cancelled:
            if not self.should_stop():
                raise error
            self.report.interrupted.add(stream)
        else:
            self.report.set_aside.setdefault(stream, error)
        self.parts.pop(stream, None)
        # Nothing may be raised here, which would cancel the requests of all streams.
        self.is_discarded |= stream in self.batches.yielded
        self.batches.drop(stream)

    def commit(self) -> None:
        """Update the states, and complete the report."""
        report, active = self.report, self.active
        for sweep in active:
            before = set(sweep.state.covered)
            sweep.commit()
            report.covered += [(sweep.stream, span) for span in sweep.state.covered if span not in before]
            report.add(self.parts[sweep.stream])
        report.known = sum(sweep.known for sweep in active)
        report.restated = sum(sweep.restated for sweep in active)
        report.is_last = not report.interrupted and all(sweep.is_finished for sweep in active)
