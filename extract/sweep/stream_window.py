"""The share of one stream in a window: planned slices, new trades, and the proof of completeness."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from extract.deribit.arrow import content_digests, times_ms, with_stream_columns
from extract.deribit.client import DeribitClient, Host
from extract.deribit.schema import RejectedTrade
from extract.deribit.streams import EPOCH_MS, Stream, TradeKey
from extract.sweep.fetch_slice import SliceResult
from extract.sweep.ledger import SeqLedger, SeqRange
from extract.sweep.repair import RepairResult
from extract.sweep.slices import Slice, SlicePlanner, SliceSizer
from extract.sweep.state import LoadedTrade, Span, StreamState
from extract.sweep.time_pager import ID_LAG_MS

Times = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

LIVE_SPAN_MS = 15 * 60_000
"""The newest time is fetched from the live host, because the history host is some seconds behind."""
SETTLE_MS = 60_000
"""How late a trade may appear: the newest time is read again by the next run before it counts as covered."""


class StreamSweep:
    """Plans the slices of `span`, selects new trades of those fetched, lists missing ones, and updates the state.

    `has_more_spans`: other spans of the stream follow. `sizer`: the one of the previous window.
    `known` counts fetched trades that were loaded before, `restated` those that were loaded with other content.
    """

    def __init__(
        self,
        client: DeribitClient,
        stream: Stream,
        state: StreamState,
        span: Span,
        now_ms: int,
        *,
        has_more_spans: bool,
        sizer: SliceSizer | None = None,
    ) -> None:
        self.stream = stream
        self.state = state
        self.ledger = SeqLedger()
        self.known = 0
        self.restated = 0
        self._client = client
        self._span = span
        self._has_more_spans = has_more_spans
        self._settled_ms = now_ms - SETTLE_MS
        self._done_ms = span.start_ms - 1
        self._fetched: dict[TradeKey, LoadedTrade] = {}
        self._unproven: dict[str, int] = {}
        self._planners = self._plan(max(span.start_ms, now_ms - LIVE_SPAN_MS), sizer)

    def _plan(self, live_from_ms: int, sizer: SliceSizer | None) -> deque[tuple[Host, SlicePlanner]]:
        parts = (
            (self._client.history, self._span.start_ms, min(self._span.end_ms, live_from_ms - 1), sizer),
            (self._client.live, live_from_ms, self._span.end_ms, None),
        )
        return deque(
            (host, SlicePlanner(start_ms, end_ms, self._client.page_size(host), part_sizer))
            for host, start_ms, end_ms, part_sizer in parts
            if start_ms <= end_ms
        )

    @property
    def sizer(self) -> SliceSizer | None:
        """Sizer of the history host; None if there is none yet."""
        host, planner = self._planners[0]
        return planner.sizer if host is self._client.history else None

    @property
    def is_drained(self) -> bool:
        """Whether every slice has been planned."""
        return all(planner.is_drained for _, planner in self._planners)

    @property
    def is_finished(self) -> bool:
        """Whether the stream is covered up to the end of the requested time."""
        return self.is_drained and not self._has_more_spans

    def next_slice(self, *, drain_only: bool = False) -> tuple[Host, SlicePlanner, Slice] | None:
        """The next slice to fetch; None while a probe is under way, and after the last slice.

        With `drain_only` only remainders of earlier slices, so that the window ends without a gap in time.
        """
        for host, planner in self._planners:
            if part := planner.next_slice(drain_only=drain_only):
                return host, planner, part
            if not planner.is_drained and not drain_only:
                return None
        return None

    # Fetched trades

    def accept_slice(
        self, planner: SlicePlanner, part: Slice, result: SliceResult
    ) -> tuple[pa.Table, list[RejectedTrade]]:
        """Accept a fetched slice; returns its (trades in ARROW_SCHEMA, rejected records) that are not loaded yet."""
        times = times_ms(result.table)
        for host, each in self._planners:
            if each is planner:
                planner.page_size = self._client.page_size(host)
        first_ms = int(times.min()) if len(times) else None
        planner.observe(part, first_ms, result.end_ms, len(times) + len(result.rejected))
        self.ledger.add(result.table)
        table = self._without_loaded(result.table, self._may_be_loaded(times))
        return self._with_stream_columns(table), self._rejected_without_loaded(result.rejected)

    def accept_repair(self, repaired: RepairResult) -> tuple[pa.Table, list[RejectedTrade], list[SeqRange]]:
        """(trades, rejected records, absent ranges) of a repair, except those that are loaded or may still arrive."""
        self.ledger.add(repaired.table)
        read_twice = [self._is_read_twice(key, at_ms) for key, at_ms in _keys(repaired.table)]
        table = self._without_loaded(repaired.table, np.array(read_twice, dtype=np.bool_))
        absent = [each for each in repaired.absent if not self._may_arrive_late(each)]
        return self._with_stream_columns(table), self._rejected_without_loaded(repaired.rejected), absent

    def _with_stream_columns(self, table: pa.Table) -> pa.Table:
        return with_stream_columns(table, self.stream.currency, self.stream.kind)

    def _may_be_loaded(self, times: Times) -> Mask:
        """For each time, whether its trade may be loaded already or will be read again; usually none."""
        recent = [trade.at_ms for trade in self.state.recent.values()]
        known = (min(recent) <= times) & (times <= max(recent)) if recent else False
        return known | (times > self._reread_from_ms)

    def _without_loaded(self, table: pa.Table, candidates: Mask) -> pa.Table:
        """`table` without those of the candidate rows that are loaded already."""
        if not candidates.any():
            return table
        rows = np.flatnonzero(candidates)
        trades = table.take(pa.array(rows))
        contents = zip(_keys(trades), content_digests(trades), strict=True)
        keep = ~candidates
        keep[rows] = [
            self._is_new_version(key, LoadedTrade(at_ms, digest)) for (key, at_ms), digest in contents
        ]
        return table if keep.all() else table.filter(pa.array(keep))

    @property
    def _reread_from_ms(self) -> int:
        """Trades after this time are kept in the state: they are read again, or late trades may arrive before them."""
        return self._settled_ms - ID_LAG_MS

    def _is_new_version(self, key: TradeKey, trade: LoadedTrade) -> bool:
        before = self._fetched.get(key) or self.state.recent.get(key)
        self._fetched[key] = trade
        if before is None:
            return True
        if before.digest == trade.digest:
            self.known += 1
            return False
        self.restated += 1
        return True

    def _rejected_without_loaded(self, rejected: Iterable[RejectedTrade]) -> list[RejectedTrade]:
        new: list[RejectedTrade] = []
        for bad in rejected:
            if bad.key:
                self.ledger.add_one(*bad.key)
            if (
                not bad.key
                or bad.timestamp is None
                or not self._is_read_twice(bad.key, bad.timestamp)
                or self._is_new_version(bad.key, LoadedTrade(bad.timestamp, crc32(bad.raw.encode())))
            ):
                new.append(bad)
        return new

    def _is_read_twice(self, key: TradeKey, at_ms: int) -> bool:
        """Whether a trade may be fetched twice: it is recent, or of time that is read again later."""
        is_inside = self._span.start_ms <= at_ms <= min(self._done_ms, self._reread_from_ms)
        return key in self.state.recent or not (is_inside or self.state.is_covered(at_ms))

    def _may_arrive_late(self, absent: SeqRange) -> bool:
        """Whether the trade after the range is so new that the missing ones may still appear."""
        after = self._fetched.get((absent.instrument_name, absent.last + 1))
        if after is None or after.at_ms <= self._settled_ms:
            return False
        name = absent.instrument_name
        self._unproven[name] = min(absent.first - 1, self._unproven.get(name, absent.first - 1))
        return True

    # Proof and state

    def close(self) -> None:
        """Determine the time that is complete, after all slices are finished."""
        for _, planner in self._planners:
            self._done_ms = planner.done_ms
            if planner.done_ms < planner.end_ms:
                break

    def missing(self) -> list[SeqRange]:
        """Missing trades in this window, and between it and the adjacent covered time."""
        if self._done_ms < self._span.start_ms:
            return []
        return self.ledger.missing(
            self.state.last_before(self._span.start_ms),
            self.state.first_after(self._done_ms),
            self.state.span_start(self._span.start_ms) <= EPOCH_MS,
        )

    def commit(self) -> None:
        """Mark the window as covered, up to the settled time."""
        end_ms = min(self._done_ms, self._settled_ms)
        if end_ms >= self._span.start_ms:
            last_seq = self.ledger.last_seqs() | self._unproven
            self.state.add_span(Span(self._span.start_ms, end_ms), self.ledger.first_seqs(), last_seq)
        self.state.keep_recent(self._fetched, ID_LAG_MS)


def _keys(table: pa.Table) -> Iterator[tuple[TradeKey, int]]:
    """Key and time in ms of each trade."""
    names, seqs = table.column("instrument_name").to_pylist(), table.column("trade_seq").to_pylist()
    return zip(zip(names, seqs, strict=True), times_ms(table).tolist(), strict=True)
