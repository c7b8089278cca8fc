"""Load one window of several streams: fetch its slices, check sequence numbers, fetch what is missing.

Slices are fetched concurrently until the window holds enough trades. Then the proof over `trade_seq` (`ledger`) lists
missing trades, and `repair` fetches them. Only after that the state marks the time as covered. A stream whose pages
cannot be used is set aside, an instrument whose missing trades cannot be fetched leaves them missing, and the window
continues with everything else.
"""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa

from extract.deribit.arrow import count_unknown_fields
from extract.deribit.client import DeribitClient
from extract.deribit.schema import RejectedTrade
from extract.deribit.streams import ANY, Stream
from extract.errors import CannotTellError, OutsideError, ProofError, RetriableError, TapeError
from extract.sweep.contradictions import REASON
from extract.sweep.fetch_slice import SliceResult, sweep_slice
from extract.sweep.ledger import SeqRange
from extract.sweep.left_out import LeftOut
from extract.sweep.repair import InstrumentRepair, RepairQueue, repairs
from extract.sweep.scheduler import Task, run_all
from extract.sweep.slices import Slice, SlicePlanner
from extract.sweep.state import Span
from extract.sweep.stream_window import StreamSweep
from extract.sweep.together import Together, group_sweeps
from extract.sweep.universe import streams_of_instruments

BATCH_BYTES = 64 * 2**20
"""Size at which a batch of trades is passed on, whatever its rows: 100,000 usual trades have 20 MB."""
MAX_REJECTED_CHARS = 32 * 2**20
"""Text of rejected records after which a window is closed."""
MAX_REPAIRED = 1_000_000
"""Trades of a stream and window to fetch by number, after which the rest is reported as missing."""
MAX_FIELD_NAMES = 1_000
VISIT_EVERY_S = 60.0
UNPROVEN_FROM, UNPROVEN_TO = "unproven_from_ms", "unproven_to_ms"
"""Members of the text of a rejected answer about a stream."""
MAX_RESWEEPS = 3
"""How often a window is swept again because further numbers of a stream contradict each other."""
MAX_UNANSWERED_REPAIRS = 3
"""Instruments of a window whose repair gets no answer to the last retry, after which no further repair starts."""


@dataclass
class Absent:
    """A range of trades that the exchange does not have."""

    stream: Stream
    range: SeqRange


@dataclass
class Unrepaired:
    """A range of trades that could not be fetched and may exist; `reason` is one sentence."""

    stream: Stream
    range: SeqRange
    reason: str


@dataclass
class WindowReport:
    """Result of one window. `trades` counts the rows yielded, including `restated` and `repaired` ones.

    `unknown_fields` counts rows by the name of each field that has no column. `known` counts trades skipped because
    they are already loaded. `by_stream` counts `trades` that were not repaired. `is_last`: every stream is covered.
    `set_aside`: streams that failed in this window or before, with the error; nothing else is reported of them.
    `interrupted`: streams whose requests were cancelled because the run was stopped. `unrepaired`: trades of covered
    time that are missing because they could not be fetched by number. `traded`: names of the instruments with new trades
    in time that follows earlier covered time. `contradictory` counts `rejected` trades whose number another trade has;
    `suspects` are their instruments, while the window has to be swept again. `unproven`: the requested time of streams that
    were set aside since the window before, with the error. `unlisted`: instruments that were traded and are not listed, with
    their stream, which is not one of the window.
    """

    trades: int = 0
    by_stream: Counter[Stream] = field(default_factory=Counter)
    repaired: int = 0
    known: int = 0
    restated: int = 0
    rejected: list[tuple[Stream, RejectedTrade]] = field(default_factory=list)
    absent: list[Absent] = field(default_factory=list)
    unrepaired: list[Unrepaired] = field(default_factory=list)
    traded: dict[Stream, set[str]] = field(default_factory=dict)
    contradictory: int = 0
    unproven: list[tuple[Stream, Span, TapeError]] = field(default_factory=list)
    suspects: dict[Stream, frozenset[str]] = field(default_factory=dict)
    unlisted: dict[str, Stream] = field(default_factory=dict)
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
        self.unrepaired += part.unrepaired
        self.contradictory += part.contradictory
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


@dataclass(frozen=True)
class SweepRequest:
    """The time to load, and limits for each window.

    `since_ms` is by default the end of a stream's covered time, `until_ms` the time at which each window starts. Once
    `should_stop` returns True, the current window is closed early and is the last one. `machine_s` is this computer's
    clock, in seconds since 1970 UTC. Without an `until_ms`, the newest time is fetched every `visit_every_s` seconds even
    while older time is missing, so that a long backfill does not delay new trades. `kind_of`: kinds of the live
    instruments, by name. `unoffered`: currencies and kinds that the live host may not know any more. `again`: read covered
    time once more, and nothing else; trades that differ from the loaded ones are new versions, and no state changes. That
    needs states with a `lookup`. Tables have at least `batch_rows` rows, or BATCH_BYTES, except the last of a window.
    """

    since_ms: int | None = None
    until_ms: int | None = None
    in_flight: int = 4
    max_trades: int = 1_000_000
    on_slice: OnSlice = lambda stream, rows, end_ms: None
    should_stop: ShouldStop = lambda: False
    machine_s: Callable[[], float] = time.time
    visit_every_s: float = VISIT_EVERY_S
    kind_of: Mapping[str, str] = field(default_factory=dict)
    unoffered: frozenset[str] = frozenset()
    again: bool = False
    batch_rows: int = 1


def sweep_window(
    client: DeribitClient,
    sweeps: Sequence[StreamSweep],
    request: SweepRequest,
    report: WindowReport,
    resweeps: Counter[Stream] | None = None,
) -> Iterator[pa.Table]:
    """Tables of new trades in ARROW_SCHEMA; fills `report`, and updates the streams' states after the last table.

    Once the window holds `max_trades` trades or `should_stop` returns True, no newer slice starts: those that have
    started are finished, so that the window ends without a gap.

    A stream whose answers cannot be used is set aside: its state does not change, its trades are not yielded, and the
    other streams continue. Raises WindowDiscardedError if some have been yielded, or if trade numbers contradict each other
    (`report.suspects`; `resweeps` counts that), and the error itself if the exchange answers no request at all.
    """
    window = _Window(client, sweeps, request, report, Counter() if resweeps is None else resweeps)
    yield from window.fetch_slices()
    window.close()
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
        self._append(stream, table)
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
            self._append(kept, table)

    def _append(self, stream: Stream, table: pa.Table) -> None:
        self._waiting.append((stream, table))
        self._rows += table.num_rows
        self._bytes += table.get_total_buffer_size()


@dataclass
class _Window:
    """The streams of one window, and a report of each."""

    client: DeribitClient
    sweeps: Sequence[StreamSweep]
    request: SweepRequest
    report: WindowReport
    resweeps: Counter[Stream]

    def __post_init__(self) -> None:
        self.batches = _Batches(self.request.batch_rows)
        self.parts = {sweep.stream: WindowReport() for sweep in self.sweeps}
        self.rejected_chars = 0
        self.is_discarded = False
        self.unanswered = 0
        kind_of = {} if self.request.again else self.request.kind_of  # `any` may be what left trades out
        self.together = deque(group_sweeps(self.sweeps, kind_of))
        self.waiting = {each.currency for each in self.together}
        self.left_out = LeftOut(self.client)

    @property
    def active(self) -> list[StreamSweep]:
        """Streams that are not set aside or interrupted."""
        excluded = self.report.set_aside.keys() | self.report.interrupted
        return [sweep for sweep in self.sweeps if sweep.stream not in excluded]

    def fetch_slices(self) -> Iterator[pa.Table]:
        for tables in run_all(self._next_slice, in_flight=self.request.in_flight, cancel=self.client.cancel):
            for stream, table in tables:
                if stream in self.parts and not self.is_discarded:
                    yield from self.batches.add(stream, table)
        self._require_not_discarded()

    def _next_slice(self) -> Task[SliceResult, list[tuple[Stream, pa.Table]]] | None:
        if self.together and not self.is_discarded:
            group = self.together.popleft()
            return Task(
                partial(group.fetch, self.client),
                partial(self._accept_together, group),
                lambda error: self.waiting.discard(group.currency),
            )
        trades = sum(part.trades for part in self.parts.values())
        is_full = trades >= self.request.max_trades or self.rejected_chars >= MAX_REJECTED_CHARS
        drain_only = is_full or self.request.should_stop()
        for sweep in self.active if not self.is_discarded else ():
            if sweep.stream.currency in self.waiting:
                continue
            if step := sweep.next_slice(drain_only=drain_only):
                host, planner, part = step
                return Task(
                    partial(sweep_slice, self.client, host, sweep.stream, part, self.request.kind_of),
                    partial(self._accept, sweep, planner, part),
                    partial(self._set_aside, sweep),
                )
        return None

    def _accept_together(self, group: Together, result: SliceResult) -> list[tuple[Stream, pa.Table]]:
        """Accept the trades of all kinds of a currency; those that cannot be divided are requested by kind."""
        self.waiting.discard(group.currency)
        parts = group.divide(result)
        if not parts:
            self.left_out.note_undivided(group.currency, result.table)
        tables = []
        for sweep, divided in parts:
            step = sweep.next_slice()
            assert step is not None, "nothing of the span was planned"
            _, planner, part = step
            tables += self._accept(sweep, planner, part, divided)
        return tables

    def _accept(
        self, sweep: StreamSweep, planner: SlicePlanner, part: Slice, result: SliceResult
    ) -> list[tuple[Stream, pa.Table]]:
        table, rejected = sweep.accept_slice(planner, part, result)
        if result.left is not None:
            host = next(host for host, each in sweep.planners if each is planner)
            self.left_out.note_pairs(sweep.stream, host, sweep.settled(result.left))
        if sweep.stream in self.parts:
            self._add_trades(sweep.stream, table, rejected)
            self.parts[sweep.stream].by_stream[sweep.stream] += table.num_rows
            self.request.on_slice(sweep.stream, table.num_rows, result.end_ms)
        return [(sweep.stream, table)]

    def close(self) -> None:
        """Determine the time that is complete in each stream.

        If the live host lacks the loaded trades of one stream, its empty answers about the others prove nothing either.
        """
        lacking = next((sweep.stream for sweep in self.active if sweep.lacks_all_recent), None)
        for sweep in self.active:
            try:
                if lacking and sweep.is_live:
                    raise CannotTellError(
                        f"The live host sent none of the newest trades of {lacking} that are loaded already, so its answers "
                        "prove nothing: the next run requests the same time again."
                    )
                sweep.close()
            except CannotTellError as error:
                self._set_aside(sweep, error)
        self._require_kinds()
        if not self.is_discarded:
            self._expect_undivided()
            self._expect_pairs()
        for sweep in self.active:
            self._suspect(sweep)

    def _require_kinds(self) -> None:
        """Set aside streams that were sent trades of the same instrument: each trade would be loaded once for each kind."""
        by_name: dict[tuple[str, str], list[StreamSweep]] = {}
        for sweep in self.active:
            for name in sweep.ledger.by_instrument():
                by_name.setdefault((sweep.stream.currency, name), []).append(sweep)
        for (_, name), sweeps in by_name.items():
            kinds = " and ".join(sweep.stream.kind for sweep in sweeps)
            for sweep in sweeps if len(sweeps) > 1 else ():
                text = f"Trades of {sweep.stream} were requested, and the exchange sent those of {name} as {kinds}."
                self._set_aside(sweep, ProofError(text))

    def _expect_undivided(self) -> None:
        """Have trades requested by number that an answer for all kinds had, and that the answers by kind leave out."""
        sweeps = {sweep.stream: sweep for sweep in self.active}
        currencies = {stream.currency for stream in sweeps}
        fetched = {
            (sweep.stream.currency, name): sweep
            for sweep in self.active
            for name in sweep.ledger.by_instrument()
        }
        left = {}
        for (currency, name), sent in self.left_out.undivided.items():
            listed = sweeps.get(Stream(currency, self.request.kind_of.get(name, "")))
            if sweep := fetched.get((currency, name), listed):
                sweep.expect(name, sent.first_seq, sent.last_seq)
            elif currency in currencies:
                left[currency, name] = sent
        try:
            streams = streams_of_instruments(self.client, left)
        except OutsideError as error:  # the client is cancelled
            for sweep in sweeps.values():
                self._set_aside(sweep, error)
            return
        for (currency, name), stream in streams.items():
            if stream is None:
                reason = "an instrument that was traded, and whose kind the exchange does not show"
                raw = json.dumps({"instrument_name": name})
                self.report.rejected.append((Stream(currency, ANY), RejectedTrade(reason, raw)))
            elif stream in sweeps:
                sent = left[currency, name]
                sweeps[stream].expect(name, sent.first_seq, sent.last_seq)
            else:
                self.report.unlisted[name] = stream

    def _expect_pairs(self) -> None:
        """Have trades requested by number of spot pairs that were left to a base currency that is not sent them."""
        sweeps = {sweep.stream: sweep for sweep in self.active}
        try:
            for sweep, name, sent in self.left_out.pairs_to_fetch(sweeps):
                sweep.expect(name, sent.first_seq, sent.last_seq)
        except OutsideError as error:
            for stream, _ in self.left_out.pairs:
                if stream in sweeps:
                    self._set_aside(sweeps[stream], error)

    def _suspect(self, sweep: StreamSweep) -> None:
        """Have the window swept again if numbers of the stream contradict each other, and hold their trades then."""
        suspects = sweep.find_suspects()
        if not suspects:
            return
        names = sweep.held.names | suspects
        self.report.suspects[sweep.stream] = names
        self.resweeps[sweep.stream] += 1
        if self.resweeps[sweep.stream] > MAX_RESWEEPS:
            self._set_aside(
                sweep,
                ProofError(
                    f"Trade numbers of {min(suspects)} contradict those of its other trades again and again."
                ),
            )
        self.is_discarded = True

    def repair(self) -> Iterator[pa.Table]:
        """Fetch what is missing; trades that were set aside meanwhile are left out."""
        self._require_not_discarded()
        for sweep in self.active:
            table, contradictory = sweep.resolve_held()
            self._add_trades(sweep.stream, table, contradictory)
            self.parts[sweep.stream].by_stream[sweep.stream] += table.num_rows
            yield from self.batches.add(sweep.stream, table)
        missing = {sweep.stream: sweep.missing() for sweep in self.active}
        by_stream = {sweep.stream: sweep for sweep in self.active}
        queue = RepairQueue(
            ((stream, each) for stream, ranges in missing.items() for each in repairs(self.client, ranges)),
            lambda stream, each, error: self._leave_missing(queue, by_stream[stream], each, error),
        )
        for stream, result in queue.run(in_flight=self.request.in_flight, cancel=self.client.cancel):
            if stream not in self.parts or self.is_discarded:
                queue.drop(stream)
                continue
            table, rejected, absent = by_stream[stream].accept_repair(result)
            part = self.parts[stream]
            part.absent += [Absent(stream, each) for each in absent]
            part.repaired += table.num_rows
            self._add_trades(stream, table, rejected)
            yield from self.batches.add(stream, table)
            if part.repaired > MAX_REPAIRED:
                queue.drop(stream)
        reason = f"more than {MAX_REPAIRED:,} trades of a window had to be requested by number"
        self._report_unrepaired(queue.dropped, reason)
        self._require_not_discarded()

    def _leave_missing(
        self, queue: RepairQueue[Stream], sweep: StreamSweep, failed: InstrumentRepair, error: TapeError
    ) -> None:
        """Report what `failed` could not fetch as missing; the stream continues. Raises like `_set_aside`."""
        if sweep.stream not in self.parts:
            return
        if self.client.is_cancelled:
            self._set_aside(sweep, error)
            return
        require_concerns_stream(self.client, error)
        unrepaired = [(sweep.stream, failed)]
        if isinstance(error, RetriableError):
            self.unanswered += 1
            if self.unanswered >= MAX_UNANSWERED_REPAIRS:
                # Each further one would take as long until its last retry.
                unrepaired += queue.take_waiting()
        self._report_unrepaired(unrepaired, str(error))

    def _report_unrepaired(self, unrepaired: Sequence[tuple[Stream, InstrumentRepair]], reason: str) -> None:
        expected = {sweep.stream: sweep.expected for sweep in self.sweeps}
        for stream, each in unrepaired:
            if stream in self.parts:
                part = self.parts[stream]
                part.unrepaired += [Unrepaired(stream, missing, reason) for missing in each.remaining]
                if each.instrument_name in expected[stream]:
                    part.rejected += [(stream, bad) for bad in _numbers_sent(each.remaining)]

    def _require_not_discarded(self) -> None:
        if self.is_discarded:
            raise WindowDiscardedError("The window is swept again without a stream that failed.")

    def _add_trades(self, stream: Stream, table: pa.Table, rejected: Sequence[RejectedTrade]) -> None:
        part = self.parts[stream]
        part.trades += table.num_rows
        add_field_counts(part.unknown_fields, count_unknown_fields(table))
        part.rejected += [(stream, bad) for bad in rejected]
        part.contradictory += sum(bad.reason == REASON for bad in rejected)
        self.rejected_chars += sum(len(bad.raw) for bad in rejected)

    def _set_aside(self, sweep: StreamSweep, error: TapeError) -> None:
        """Leave `sweep` out of the window. Raises `error` if it does not concern the stream alone."""
        stream = sweep.stream
        if stream not in self.report.set_aside:
            require_concerns_stream(self.client, error)
        if self.client.is_cancelled:
            if not self.request.should_stop():
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
            if sweep.new_names:
                report.traded[sweep.stream] = sweep.new_names
        report.known = sum(sweep.known for sweep in active)
        report.restated = sum(sweep.restated for sweep in active)
        report.is_last = not report.interrupted and all(sweep.is_finished for sweep in active)


def unproven_records(report: WindowReport) -> list[tuple[Stream, RejectedTrade]]:
    """The time of streams that were set aside as rejected answers, so that `tape gaps` can report it until it is covered."""
    return [
        (
            stream,
            RejectedTrade(str(error), json.dumps({UNPROVEN_FROM: span.start_ms, UNPROVEN_TO: span.end_ms})),
        )
        for stream, span, error in report.unproven
    ]


def _numbers_sent(missing: Sequence[SeqRange]) -> list[RejectedTrade]:
    """The first and the last of the `missing` trades as rejected records: no loaded trade may show later that they exist."""
    reason = "a trade that was sent without the others of its kind, and that cannot be requested by number"
    seqs = sorted({missing[0].first, missing[-1].last})
    name = missing[0].instrument_name
    return [RejectedTrade(reason, json.dumps({"instrument_name": name, "trade_seq": seq})) for seq in seqs]


def require_concerns_stream(client: DeribitClient, error: TapeError) -> None:
    """Raise `error` if it does not come from the exchange's answers, or if the exchange answers no request at all."""
    if not isinstance(error, (OutsideError, ProofError, CannotTellError)):
        raise error
    if isinstance(error, RetriableError):
        try:
            client.require_answer()
        except OutsideError:
            if not client.is_cancelled:
                raise error from None
