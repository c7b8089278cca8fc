"""One stream's part of a window: its slices, what they brought, and the proof."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from zlib import crc32

import numpy as np
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

LIVE_SPAN_MS = 15 * 60_000
"""The newest time, taken from the live host: the history host is some seconds behind."""
SETTLE_MS = 60_000
"""How long a trade may take to show up: the newest time is read again by the next run before it counts as covered."""


class StreamSweep:
    """Takes what was fetched of `span`, tells what is new of it and what is missing, and moves the state at the end.

    `more`: other spans of the stream follow. `sizer` is that of the window before.
    `known` counts trades that were loaded before, `restated` those that were loaded with another content.
    """

    def __init__(
        self,
        client: DeribitClient,
        stream: Stream,
        state: StreamState,
        span: Span,
        now_ms: int,
        *,
        more: bool,
        sizer: SliceSizer | None = None,
    ) -> None:
        self.stream = stream
        self.state = state
        self.ledger = SeqLedger()
        self.known = 0
        self.restated = 0
        self._client = client
        self._span = span
        self._more = more
        self._settled_ms = now_ms - SETTLE_MS
        self._done_ms = span.start_ms - 1
        self._seen: dict[TradeKey, LoadedTrade] = {}
        self._unproven: dict[str, int] = {}
        self._planners = self._plan(max(span.start_ms, now_ms - LIVE_SPAN_MS), sizer)

    def _plan(self, live_from_ms: int, sizer: SliceSizer | None) -> deque[tuple[Host, SlicePlanner]]:
        parts = (
            (self._client.history, self._span.start_ms, min(self._span.end_ms, live_from_ms - 1), sizer),
            (self._client.live, live_from_ms, self._span.end_ms, None),
        )
        return deque(
            (host, SlicePlanner(start_ms, end_ms, self._client.page_size(host), each_pace))
            for host, start_ms, end_ms, each_pace in parts
            if start_ms <= end_ms
        )

    @property
    def sizer(self) -> SliceSizer | None:
        """That of the history host, as far as it is known."""
        host, planner = self._planners[0]
        return planner.sizer if host is self._client.history else None

    @property
    def is_drained(self) -> bool:
        """Whether every slice was handed out."""
        return all(planner.is_drained for _, planner in self._planners)

    @property
    def is_finished(self) -> bool:
        """Whether the stream is covered up to where the run wants it."""
        return self.is_drained and not self._more

    def next_slice(self, *, drain_only: bool = False) -> tuple[Host, SlicePlanner, Slice] | None:
        """The next slice to fetch, None while a probe is out or when there is none left.

        With `drain_only` what a slice left over, and nothing newer: the window is to end without a gap in time.
        """
        for host, planner in self._planners:
            if part := planner.next_slice(drain_only=drain_only):
                return host, planner, part
            if not planner.is_drained and not drain_only:
                return None
        return None

    # What arrives

    def accept_slice(
        self, planner: SlicePlanner, part: Slice, result: SliceResult
    ) -> tuple[pa.Table, list[RejectedTrade]]:
        """Takes note of a slice that arrived; of its trades and odd records those that are not loaded yet."""
        times = times_ms(result.table)
        for host, each in self._planners:
            if each is planner:
                planner.page_size = self._client.page_size(host)
        first_ms = int(times.min()) if len(times) else None
        planner.observe(part, first_ms, result.end_ms, len(times) + len(result.rejected))
        self.ledger.add(result.table)
        table = self._fresh(result.table, self._may_be_known(times))
        return self._with_stream_columns(table), self._fresh_rejected(result.rejected)

    def accept_repair(self, repaired: RepairResult) -> tuple[pa.Table, list[RejectedTrade], list[SeqRange]]:
        """Trades, odd records and absent ranges of a repair, without what is loaded or may still show up."""
        self.ledger.add(repaired.table)
        read_twice = [self._is_read_twice(key, at_ms) for key, at_ms in _keys(repaired.table)]
        table = self._fresh(repaired.table, np.array(read_twice, dtype=bool))
        absent = [each for each in repaired.absent if not self._may_arrive_late(each)]
        return self._with_stream_columns(table), self._fresh_rejected(repaired.rejected), absent

    def _with_stream_columns(self, table: pa.Table) -> pa.Table:
        return with_stream_columns(table, self.stream.currency, self.stream.kind)

    def _may_be_known(self, times: np.ndarray) -> np.ndarray:
        """Which trades of these times are loaded already, perhaps, or will be read again: few, as a rule none."""
        recent = [seen.at_ms for seen in self.state.recent.values()]
        known = (min(recent) <= times) & (times <= max(recent)) if recent else False
        return known | (times > self._kept_from_ms)

    def _fresh(self, table: pa.Table, in_question: np.ndarray) -> pa.Table:
        """`table` without those of the trades in question that are loaded already."""
        if not in_question.any():
            return table
        rows = np.flatnonzero(in_question)
        asked = table.take(pa.array(rows))
        seen = zip(_keys(asked), content_digests(asked), strict=True)
        fresh = [self._is_new_version(key, LoadedTrade(at_ms, digest)) for (key, at_ms), digest in seen]
        keep = ~in_question
        keep[rows] = fresh
        return table if keep.all() else table.filter(pa.array(keep))

    @property
    def _kept_from_ms(self) -> int:
        """Later trades are remembered: they are read again, or near enough to a hole that may fill."""
        return self._settled_ms - ID_LAG_MS

    def _is_new_version(self, key: TradeKey, seen: LoadedTrade) -> bool:
        before = self._seen.get(key) or self.state.recent.get(key)
        self._seen[key] = seen
        if before is None:
            return True
        if before.digest == seen.digest:
            self.known += 1
            return False
        self.restated += 1
        return True

    def _fresh_rejected(self, rejected: Iterable[RejectedTrade]) -> list[RejectedTrade]:
        fresh: list[RejectedTrade] = []
        for bad in rejected:
            if bad.key:
                self.ledger.add_one(*bad.key)
            if (
                not bad.key
                or bad.timestamp is None
                or not self._is_read_twice(bad.key, bad.timestamp)
                or self._is_new_version(bad.key, LoadedTrade(bad.timestamp, crc32(bad.raw.encode())))
            ):
                fresh.append(bad)
        return fresh

    def _is_read_twice(self, key: TradeKey, at_ms: int) -> bool:
        """Whether a trade was loaded from time not covered then, or is of time that will be read later."""
        is_inside = self._span.start_ms <= at_ms <= min(self._done_ms, self._kept_from_ms)
        return key in self.state.recent or not (is_inside or self.state.is_covered(at_ms))

    def _may_arrive_late(self, absent: SeqRange) -> bool:
        """Whether the trade after the range is so new that those before it may only be late."""
        after = self._seen.get((absent.instrument_name, absent.last + 1))
        if after is None or after.at_ms <= self._settled_ms:
            return False
        name = absent.instrument_name
        self._unproven[name] = min(absent.first - 1, self._unproven.get(name, absent.first - 1))
        return True

    # The proof, and what it moves

    def close(self) -> None:
        """No slice is out any more: what is done is done without a gap."""
        for _, planner in self._planners:
            self._done_ms = planner.done_ms
            if planner.done_ms < planner.end_ms:
                break

    def missing(self) -> list[SeqRange]:
        """What the proof finds missing in this window, and between it and the covered time around it."""
        if self._done_ms < self._span.start_ms:
            return []
        return self.ledger.missing(
            self.state.last_before(self._span.start_ms),
            self.state.first_after(self._done_ms),
            self.state.span_start(self._span.start_ms) <= EPOCH_MS,
        )

    def commit(self) -> None:
        """Moves the state: the window's time is covered as far as it is settled."""
        end_ms = min(self._done_ms, self._settled_ms)
        if end_ms >= self._span.start_ms:
            last_seq = self.ledger.last_seqs() | self._unproven
            self.state.cover(Span(self._span.start_ms, end_ms), self.ledger.first_seqs(), last_seq)
        self.state.remember(self._seen, ID_LAG_MS)


def _keys(table: pa.Table) -> Iterator[tuple[TradeKey, int]]:
    """Each trade's key and time."""
    names, seqs = table.column("instrument_name").to_pylist(), table.column("trade_seq").to_pylist()
    return zip(zip(names, seqs, strict=True), times_ms(table).tolist(), strict=True)
