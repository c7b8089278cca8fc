"""The share of one stream in a window: planned slices, new trades, and the proof of completeness."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from functools import cached_property
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from extract.deribit.arrow import content_digests, reject_rows, times_ms, trade_keys, with_stream_columns
from extract.deribit.client import MAX_CLOCK_DIFFERENCE_MS, DeribitClient, Host
from extract.deribit.schema import PAGE_SCHEMA, RejectedTrade
from extract.deribit.streams import EPOCH_MS, Stream, TradeKey
from extract.errors import CannotTellError
from extract.sweep.border import Border
from extract.sweep.contradictions import REASON, HeldTrades, is_contradictory
from extract.sweep.fetch_slice import SliceResult
from extract.sweep.ledger import SeqLedger, SeqRange
from extract.sweep.repair import RepairResult
from extract.sweep.slices import Slice, SlicePlanner, SliceSizer
from extract.sweep.state import LoadedTrade, SeqLookup, Span, StreamState
from extract.sweep.time_pager import ID_LAG_MS
from extract.times import iso

Times = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

SETTLE_MS = 60_000
"""How late a trade may appear: the newest time is read again by the next run before it counts as covered."""


class StreamSweep:
    """Plans the slices of `span`, selects new trades of those fetched, lists missing ones, and updates the state.

    `has_more_spans`: other spans of the stream follow. `sizer`: the one of the previous window. `border`: which host has
    which part of the span; by default the usual one. `suspects`: instruments with contradictory numbers, whose trades are
    held until all have arrived. `loaded`: the loaded trades, if the span is covered and read again; those that are the same
    are left out.
    `known` counts fetched trades that were loaded before, `restated` those that were loaded with other content.
    `new_names`: instruments with new trades, if the span follows covered time. `expected`: lowest and highest number of
    instruments of which trades were sent otherwise than by the requests for the stream.
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
        border: Border | None = None,
        suspects: frozenset[str] = frozenset(),
        loaded: SeqLookup | None = None,
    ) -> None:
        self.stream = stream
        self.state = state
        self.ledger = SeqLedger()
        self.known = 0
        self.restated = 0
        self.new_names: set[str] = set()
        self.held = HeldTrades(suspects)
        self._restated_ids: dict[TradeKey, str] = {}
        self._loaded = loaded
        self._client = client
        self._span = span
        self._has_more_spans = has_more_spans
        self._now_ms = now_ms
        self._settled_ms = now_ms - SETTLE_MS
        self._border = border or Border.usual(now_ms)
        self._oldest_live_ms: int | None = None
        self._newest_ms: dict[Host, int] = {}
        self._follows_covered = bool(state.covered) and span.start_ms > state.covered[-1].end_ms
        self._done_ms = span.start_ms - 1
        self._fetched: dict[TradeKey, LoadedTrade] = {}
        self._unproven: dict[str, int] = {}
        self._absent: list[SeqRange] = []
        self.expected: dict[str, tuple[int, int]] = {}
        self._live_from_ms = max(span.start_ms, self._border.live_from_ms)
        self.planners = self._plan(self._live_from_ms, sizer)

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
        host, planner = self.planners[0]
        return planner.sizer if host is self._client.history else None

    @property
    def is_drained(self) -> bool:
        """Whether every slice has been planned."""
        return all(planner.is_drained for _, planner in self.planners)

    @property
    def is_finished(self) -> bool:
        """Whether the stream is covered up to the end of the requested time."""
        return self.is_drained and not self._has_more_spans

    def next_slice(self, *, drain_only: bool = False) -> tuple[Host, SlicePlanner, Slice] | None:
        """The next slice to fetch; None while a probe is under way, and after the last slice.

        With `drain_only` only remainders of earlier slices, so that the window ends without a gap in time.
        """
        for host, planner in self.planners:
            if part := planner.next_slice(drain_only=drain_only):
                return host, planner, part
            if not planner.is_drained and not drain_only:
                return None
        return None

    @property
    def recent_span(self) -> Span | None:
        """The span if it is fetched from the live host alone, and no slice of it was planned yet."""
        [(host, planner), *others] = self.planners
        return self._span if host is self._client.live and not others and planner.is_untouched else None

    def lacks_recent(self, table: pa.Table) -> bool:
        """Whether a trade of the span that is loaded already is not in `table`."""
        expected = {key for key, each in self.state.recent.items() if each.at_ms >= self._span.start_ms}
        return not expected.issubset(trade_keys(table))

    # Fetched trades

    def accept_slice(
        self, planner: SlicePlanner, part: Slice, result: SliceResult
    ) -> tuple[pa.Table, list[RejectedTrade]]:
        """Accept a fetched slice; returns its (trades in ARROW_SCHEMA, rejected records) that are not loaded yet."""
        times = times_ms(result.table)
        first_ms = int(times.min()) if len(times) else None
        for host, each in self.planners:
            if each is planner:
                planner.page_size = self._client.page_size(host)
                self._note_answer(host, part, result.at_ms, first_ms)
                self._newest_ms[host] = max(self._newest_ms.get(host, 0), result.last_ms)
        planner.observe(part, first_ms, result.end_ms, len(times) + len(result.rejected))
        self.ledger.add(result.table)
        table = self._without_loaded(result.table, self._may_be_loaded(times))
        table, contradictory = self._without_same(table)
        table = self.held.take(table)
        if self._follows_covered:
            self.new_names.update(table.column("instrument_name").unique().to_pylist())
        rejected = self._rejected_without_loaded(result.rejected)
        return self._with_stream_columns(table), rejected + contradictory

    def _note_answer(self, host: Host, part: Slice, at_ms: int | None, first_ms: int | None) -> None:
        """Time after the exchange's own time of an answer is not settled by that answer, whatever `get_time` returned.

        A time long before `now_ms`, which agrees with this computer's clock except in a sandbox, is not used.
        """
        is_live = host is self._client.live
        if (
            at_ms is not None
            and at_ms < self._now_ms - MAX_CLOCK_DIFFERENCE_MS
            and not self._client.is_sandbox
        ):
            at_ms = None
        if at_ms is not None and (is_live or at_ms < part.end_ms):
            self._settled_ms = min(self._settled_ms, at_ms - SETTLE_MS)
        if is_live and first_ms is not None:
            self._oldest_live_ms = min(first_ms, self._oldest_live_ms or first_ms)

    def accept_repair(self, repaired: RepairResult) -> tuple[pa.Table, list[RejectedTrade], list[SeqRange]]:
        """(trades, rejected records, absent ranges) of a repair, except those that are loaded or may still arrive."""
        self.ledger.add(repaired.table)
        keyed = zip(trade_keys(repaired.table), times_ms(repaired.table).tolist(), strict=True)
        read_twice = [self._is_read_twice(key, at_ms) for key, at_ms in keyed]
        table = self._without_loaded(repaired.table, np.array(read_twice, dtype=np.bool_))
        table, contradictory = self._without_same(table)
        absent = [each for each in repaired.absent if not self._may_arrive_late(each)]
        self._absent += absent
        rejected = self._rejected_without_loaded(repaired.rejected)
        return self._with_stream_columns(table), rejected + contradictory, absent

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
        keep = ~candidates
        restated = self.restated
        ids = trades.column("trade_id").to_pylist()
        for row, key, at_ms, digest, trade_id in zip(
            rows, trade_keys(trades), times_ms(trades).tolist(), content_digests(trades), ids, strict=True
        ):
            keep[row] = self._is_new_version(key, LoadedTrade(at_ms, digest))
            if self.restated > restated:
                restated = self.restated
                self._restated_ids[key] = trade_id
        return table if keep.all() else table.filter(pa.array(keep))

    def _without_same(self, table: pa.Table) -> tuple[pa.Table, list[RejectedTrade]]:
        """If the span is read again: (trades that are not loaded with the same content, those with the number of another).

        The trade with the same number and another id may be loaded at any time, not only in the time of `table`.
        """
        if self._loaded is None or not table.num_rows:
            return table, []
        times = times_ms(table)
        span = Span(int(times.min()), int(times.max()))
        before = self._loaded.contents(span, table.column("instrument_name").unique().to_pylist())
        is_new = np.array(
            [
                before.get(key) != new
                for key, new in zip(trade_keys(table), content_digests(table), strict=True)
            ],
            dtype=np.bool_,
        )
        self.known += int((~is_new).sum())
        table = table.filter(pa.array(is_new))
        keys, ids = trade_keys(table), table.column("trade_id").to_pylist()
        loaded_ids = self._loaded.trade_ids(keys)
        is_other = np.array(
            [loaded_ids.get(key, each) != each for key, each in zip(keys, ids, strict=True)], dtype=np.bool_
        )
        self.restated += sum(key in loaded_ids for key in keys) - int(is_other.sum())
        return reject_rows(table, is_other, REASON)

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

    @property
    def is_live(self) -> bool:
        """Whether a part of the span was fetched from the live host."""
        return any(
            host is self._client.live and each.done_ms >= self._live_from_ms for host, each in self.planners
        )

    @property
    def lacks_all_recent(self) -> bool:
        """Whether the live host sent none of the loaded trades that it must have sent, as one that answers empty pages."""
        if not self.is_live:
            return False
        done_ms = self.planners[-1][1].done_ms
        recent = [k for k, each in self.state.recent.items() if self._live_from_ms <= each.at_ms <= done_ms]
        return bool(recent) and self._fetched.keys().isdisjoint(recent)

    def close(self) -> None:
        """Determine the time that is complete, after all slices are finished.

        Raises CannotTellError if the live host has trades that a complete history would have, or if the newest trade of
        history is not sent with those of its time, by the host that was asked for that time.
        """
        if self._oldest_live_ms is not None:
            self._border.require_reached(self.stream, self._oldest_live_ms)
        for _, planner in self.planners:
            self._done_ms = planner.done_ms
            if planner.done_ms < planner.end_ms:
                break
        newest_ms, start_ms = self._border.history_end_ms, self._span.start_ms
        for host, planner in self.planners:
            if newest_ms is not None and start_ms <= newest_ms <= planner.done_ms:
                if self._newest_ms.get(host, 0) < newest_ms:
                    one = "" if host is self._client.history else "the live host "
                    raise CannotTellError(
                        f"The history host has a trade of {self.stream} at {iso(newest_ms)} and {one}does not send it with "
                        "those of that time: nothing can be proven until it does."
                    )
                break
            start_ms = planner.end_ms + 1

    @cached_property
    def _first_after(self) -> Mapping[str, int]:
        """First trade_seq of each instrument after the window, once it is closed."""
        return self.state.first_after(self._done_ms)

    def find_suspects(self) -> set[str]:
        """Instruments whose numbers contradict each other or those of loaded trades, and that are not held yet."""
        by_instrument = self.ledger.by_instrument()
        before = self.state.greatest_before(self._span.start_ms, by_instrument.keys())
        after = self.state.smallest_after(self._done_ms)
        suspects = {
            name
            for name, runs in by_instrument.items()
            if name not in self.held.names
            and is_contradictory(
                runs,
                before.get(name, 0),
                after.get(name),
                lambda seq, name=name: self._may_be_read_again((name, seq)),  # type: ignore[misc]
            )
        }
        if self._restated_ids and self.state.lookup:
            loaded = self.state.lookup.trade_ids(self._restated_ids.keys())
            suspects |= {
                key[0]
                for key, trade_id in self._restated_ids.items()
                if key[0] not in self.held.names and loaded.get(key, trade_id) != trade_id
            }
        return suspects

    def _may_be_read_again(self, key: TradeKey) -> bool:
        """Whether a number of other time may be that of the same trade, or of none."""
        return key in self.state.recent or self.state.is_absent(key)

    def resolve_held(self) -> tuple[pa.Table, list[RejectedTrade]]:
        """(trades in ARROW_SCHEMA, rejected ones) of the instruments with contradictory numbers."""
        if not self.held.names:
            return self._with_stream_columns(PAGE_SCHEMA.empty_table()), []
        times = self.held.times_ms()
        if self.state.lookup:
            loaded = self.state.lookup.trade_ids(times.keys())
        else:
            before = self.state.greatest_before(self._span.start_ms, self.held.names)
            loaded = {key: "" for key, at in times.items() if self._is_taken(key, at, before.get(key[0], 0))}
        table, rejected = self.held.resolve(loaded)
        return self._with_stream_columns(table), rejected

    def _is_taken(self, key: TradeKey, times_ms: set[int], last_before: int) -> bool:
        """Without a lookup: whether a number counts as that of another trade, of earlier or of later time.

        Not if a recent trade is restated, if the exchange did not have the number, or at the border of later time, where
        numbers and times may have another order.
        """
        recent = self.state.recent.get(key)
        if (recent and recent.at_ms in times_ms) or self.state.is_absent(key):
            return False
        is_at_border = max(times_ms) > self._done_ms - ID_LAG_MS
        return key[1] <= last_before or (not is_at_border and self.state.may_be_after(self._done_ms, key))

    def is_swept(self, first_ms: int, last_ms: int) -> bool:
        """Whether trades of this time were requested in the window; after it is closed."""
        return self._span.start_ms <= first_ms and last_ms <= self._done_ms

    def has_traded(self, name: str) -> bool:
        """Whether trades of an instrument were sent in the window, or are loaded of the time right before it."""
        return name in self.ledger.by_instrument() or name in self.state.last_before(
            self._span.start_ms, [name]
        )

    def settled(self, table: pa.Table) -> pa.Table:
        """The trades of `table` that every further answer would have."""
        return table.filter(pa.array(times_ms(table) <= self._settled_ms))

    def expect(self, name: str, first_seq: int, last_seq: int) -> None:
        """Request by number what the answers lack of an instrument, of which trades with these numbers were sent."""
        self.expected[name] = first_seq, last_seq

    def missing(self) -> list[SeqRange]:
        """Missing trades in this window, and between it and the adjacent covered time."""
        if self._done_ms < self._span.start_ms:
            return []
        first_after = self._first_after
        names = self.ledger.by_instrument().keys() | first_after.keys() | self.expected.keys()
        return self.ledger.missing(
            self.state.last_before(self._span.start_ms, names),
            first_after,
            self.state.span_start(self._span.start_ms) <= EPOCH_MS,
            self.expected,
        )

    def commit(self) -> None:
        """Mark the window as covered, up to the settled time."""
        end_ms = min(self._done_ms, self._settled_ms)
        if end_ms >= self._span.start_ms:
            last_seq = self.ledger.last_seqs()
            before = self.state.last_before(self._span.start_ms, last_seq.keys())
            last_seq = {
                name: max(seq, before.get(name, 0)) for name, seq in last_seq.items()
            } | self._unproven
            self.state.add_span(Span(self._span.start_ms, end_ms), self.ledger.first_seqs(), last_seq)
        self.state.note_absent(self._absent, self.ledger.by_instrument())
        self.state.keep_recent(self._fetched, ID_LAG_MS)
