"""Sweeping streams of trades by time, several slices under way at once, up to a budget of trades.

A sweep of one window is: slices by time (`slices`, `paging`), then the proof over `trade_seq` (`proof`), then the
fetch of what the proof found missing (`repair`). Only then does the state say that the time is covered.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import msgspec
import pyarrow as pa

from extract.deribit.client import DeribitClient, Host
from extract.deribit.paging import ById, ByTime, PageFacts, SlicePager
from extract.deribit.proof import SeqLedger, SeqRange
from extract.deribit.record import Rejected, Trade, TradePage, to_table
from extract.deribit.repair import Repaired, repair
from extract.deribit.slices import Slice, SlicePlanner
from extract.deribit.state import EPOCH_MS, Span, Stream, StreamState
from extract.errors import ProofError

HOUR_MS = 3_600_000
LIVE_SPAN_MS = HOUR_MS // 4
"""The newest time, taken from the live host: the history host is some seconds behind."""
LIVE_KEEPS_MS = 23 * HOUR_MS
"""The live host answers an older start than 24 hours with an empty page; an hour is left for the run itself."""
SETTLE_MS = 60_000
"""How long a trade may take to show up: the newest time is read again by the next run before it counts as covered."""


@dataclass
class SliceResult:
    """The trades of one slice, each key once, and how far the slice got."""

    trades: list[Trade]
    end_ms: int
    rejected: list[Rejected]
    unknown_fields: frozenset[str]


@dataclass
class Absent:
    """A range that the exchange does not have."""

    stream: Stream
    range: SeqRange


@dataclass
class WindowReport:
    """What one window came to."""

    trades: int = 0
    repaired: int = 0
    known: int = 0
    rejected: list[tuple[Stream, Rejected]] = field(default_factory=list)
    absent: list[Absent] = field(default_factory=list)
    unknown_fields: set[str] = field(default_factory=set)
    covered: list[tuple[Stream, Span]] = field(default_factory=list)
    is_swept: bool = False
    is_last: bool = False


def sweep_slice(client: DeribitClient, host: Host, stream: Stream, part: Slice) -> SliceResult:
    """All trades of `stream` in the slice; a probe ends where its first page does."""
    pager = SlicePager(part.start_ms, part.end_ms)
    trades: dict[tuple[str, int], Trade] = {}
    rejected: list[Rejected] = []
    unknown: set[str] = set()
    first = True
    while pager.request is not None:
        page = _fetch(client, host, stream, pager.request)
        facts = page_facts(page, client.page_size(host))
        trades.update(((t.instrument_name, t.trade_seq), t) for t in page.trades)
        rejected += page.rejected
        unknown |= page.unknown_fields
        if not (first and part.is_probe and facts.is_full and pager.cut_at(facts)):
            pager.feed(facts)
        first = False
    inside = [t for t in trades.values() if part.start_ms <= t.timestamp <= pager.end_ms]
    return SliceResult(inside, pager.end_ms, rejected, frozenset(unknown))


def page_facts(page: TradePage, count: int) -> PageFacts:
    """What the pager needs to know; the last trade by time and by id, not by place in the page."""
    rows = len(page.trades) + len(page.rejected)
    if not page.trades:
        return PageFacts(rows, page.has_more, count)
    return PageFacts(
        rows,
        page.has_more,
        count,
        last_ms=max(t.timestamp for t in page.trades),
        last_id=max((t.trade_id for t in page.trades), key=_id_number),
    )


def _id_number(trade_id: str) -> int:
    return int(trade_id.rpartition("-")[2])


def _fetch(client: DeribitClient, host: Host, stream: Stream, request: ByTime | ById) -> TradePage:
    common = {"currency": stream.currency, "kind": stream.kind, "sorting": "asc"}
    if isinstance(request, ById):
        return client.trades(host, "get_last_trades_by_currency", {**common, "start_id": request.start_id})
    return client.trades(
        host,
        "get_last_trades_by_currency_and_time",
        {**common, "start_timestamp": request.start_ms, "end_timestamp": request.end_ms},
    )


class StreamSweep:
    """One stream's part of a window: its slices, what they brought, and the proof."""

    def __init__(
        self, client: DeribitClient, stream: Stream, state: StreamState, span: Span, now_ms: int, more: bool
    ) -> None:
        self.stream = stream
        self.state = state
        self.ledger = SeqLedger()
        self.known = 0
        self._client = client
        self._now_ms = now_ms
        self._span = span
        self._more = more
        self._end_ms = span.start_ms - 1
        self._seen_recent: dict[int, int] = {}
        live_from_ms = max(span.start_ms, now_ms - LIVE_SPAN_MS)
        self._planners: deque[tuple[Host, SlicePlanner]] = deque()
        for host, start_ms, end_ms in (
            (client.history, span.start_ms, min(span.end_ms, live_from_ms - 1)),
            (client.live, live_from_ms, span.end_ms),
        ):
            if start_ms <= end_ms:
                self._planners.append((host, SlicePlanner(start_ms, end_ms, client.page_size(host))))

    @property
    def is_drained(self) -> bool:
        """Whether every slice was handed out."""
        return all(planner.is_drained for _, planner in self._planners)

    @property
    def is_finished(self) -> bool:
        """Whether the stream is covered up to where the run wants it."""
        return self.is_drained and not self._more

    def next(self) -> tuple[Host, SlicePlanner, Slice] | None:
        """The next slice to fetch, None while a probe is out or when there is none left."""
        while self._planners and self._planners[0][1].is_drained:
            self._planners.popleft()
        if not self._planners:
            return None
        host, planner = self._planners[0]
        part = planner.next()
        return (host, planner, part) if part else None

    def take(self, planner: SlicePlanner, part: Slice, result: SliceResult) -> pa.Table:
        """Takes note of a slice that arrived; the table of those of its trades that are not loaded yet."""
        first_ms = min((t.timestamp for t in result.trades), default=None)
        planner.observe(part, first_ms, result.end_ms, len(result.trades))
        self._end_ms = max(self._end_ms, result.end_ms)
        fresh = self._without_known(result.trades)
        self.known += len(result.trades) - len(fresh)
        table = to_table(fresh, self.stream.currency, self.stream.kind)
        self.ledger.add(table)
        return table

    def _without_known(self, trades: list[Trade]) -> list[Trade]:
        """Trades without those that an earlier run loaded from the time that was not settled then."""
        recent = self.state.recent
        newest_settled_ms = self._now_ms - SETTLE_MS
        if not recent and all(t.timestamp <= newest_settled_ms for t in trades):
            return trades
        fresh: list[Trade] = []
        for trade in trades:
            digest = content_hash(trade)
            if digest not in recent:
                fresh.append(trade)
            self._seen_recent[digest] = trade.timestamp
        return fresh

    @property
    def _is_newest(self) -> bool:
        """Whether the window goes on where the newest covered time ends."""
        return not self.state.covered or self._span.start_ms > self.state.covered[-1].end_ms

    def missing(self) -> list[SeqRange]:
        """What the proof finds missing in this window."""
        begins_at_one = self._span.start_ms <= EPOCH_MS or self.state.begins_at_one
        return self.ledger.missing(
            self.state.last_seq if self._is_newest else {}, begins_at_one and self._is_newest
        )

    def commit(self) -> None:
        """Moves the state: the window's time is covered as far as it is settled."""
        if self._end_ms < self._span.start_ms:
            return
        if self._is_newest:
            self.state.last_seq.update(self.ledger.last_seqs())
            settled_ms = min(self._end_ms, self._now_ms - SETTLE_MS)
            recent = {**self.state.recent, **self._seen_recent}
            self.state.recent = {digest: at_ms for digest, at_ms in recent.items() if at_ms > settled_ms}
        else:
            settled_ms = self._end_ms
        if settled_ms >= self._span.start_ms:
            self.state.cover(Span(self._span.start_ms, settled_ms))


def content_hash(trade: Trade) -> int:
    """63 bits over a trade's whole content: a re-stated trade has another one."""
    return int.from_bytes(hashlib.blake2b(msgspec.json.encode(trade), digest_size=8).digest(), "big") >> 1


def sweep_window(
    client: DeribitClient,
    sweeps: Sequence[StreamSweep],
    *,
    in_flight: int,
    budget: int,
    report: WindowReport,
    on_slice: Callable[[Stream, int, int], None] = lambda stream, rows, end_ms: None,
) -> Iterator[pa.Table]:
    """Tables of new trades; fills `report`, and moves the streams' states when the last table has been taken."""
    with ThreadPoolExecutor(in_flight, thread_name_prefix="deribit") as pool:
        try:
            yield from _slices(client, sweeps, pool, in_flight, budget, report, on_slice)
            yield from _repairs(client, sweeps, pool, report)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    for sweep in sweeps:
        before = set(sweep.state.covered)
        sweep.commit()
        report.covered += [(sweep.stream, span) for span in sweep.state.covered if span not in before]
    report.known = sum(sweep.known for sweep in sweeps)
    report.is_swept = True
    report.is_last = all(sweep.is_finished for sweep in sweeps)


def _slices(
    client: DeribitClient,
    sweeps: Sequence[StreamSweep],
    pool: ThreadPoolExecutor,
    in_flight: int,
    budget: int,
    report: WindowReport,
    on_slice: Callable[[Stream, int, int], None],
) -> Iterator[pa.Table]:
    under_way: dict[Future[SliceResult], tuple[StreamSweep, SlicePlanner, Slice]] = {}
    while True:
        if report.trades < budget:
            for sweep in sweeps:
                while len(under_way) < in_flight and (step := sweep.next()):
                    host, planner, part = step
                    _refuse_live_hole(client, host, part, sweep)
                    future = pool.submit(sweep_slice, client, host, sweep.stream, part)
                    under_way[future] = (sweep, planner, part)
        if not under_way:
            return
        done, _ = wait(under_way, return_when=FIRST_COMPLETED)
        for future in done:
            sweep, planner, part = under_way.pop(future)
            result = future.result()
            table = sweep.take(planner, part, result)
            report.trades += table.num_rows
            report.unknown_fields |= result.unknown_fields
            report.rejected += [(sweep.stream, rejected) for rejected in result.rejected]
            on_slice(sweep.stream, table.num_rows, result.end_ms)
            if table.num_rows:
                yield table


def _refuse_live_hole(client: DeribitClient, host: Host, part: Slice, sweep: StreamSweep) -> None:
    if host is client.live and part.start_ms < sweep._now_ms - LIVE_KEEPS_MS:
        raise ProofError(
            f"{sweep.stream}: the live host keeps 24 hours, and {part.start_ms} ms is older than that; "
            "it would answer with an empty page."
        )


def _repairs(
    client: DeribitClient, sweeps: Sequence[StreamSweep], pool: ThreadPoolExecutor, report: WindowReport
) -> Iterator[pa.Table]:
    tasks: list[tuple[StreamSweep, Future[Repaired]]] = []
    for sweep in sweeps:
        for missing in sweep.missing():
            tasks.append((sweep, pool.submit(_repair_from_both, client, missing)))
    for sweep, task in tasks:
        repaired = task.result()
        report.rejected += [(sweep.stream, rejected) for rejected in repaired.rejected]
        report.absent += [Absent(sweep.stream, missing) for missing in repaired.absent]
        if repaired.trades:
            table = to_table(repaired.trades, sweep.stream.currency, sweep.stream.kind)
            sweep.ledger.add(table)
            report.trades += table.num_rows
            report.repaired += table.num_rows
            yield table


def _repair_from_both(client: DeribitClient, missing: SeqRange) -> Repaired:
    """From history; what that does not have, the live host may: history is some seconds behind."""
    result = repair(client, client.history, missing)
    for absent in list(result.absent):
        late = repair(client, client.live, absent)
        result.absent.remove(absent)
        result.absent += late.absent
        result.trades += late.trades
        result.rejected += late.rejected
    return result
