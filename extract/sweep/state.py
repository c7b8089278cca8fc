"""Checkpoint of each stream between runs, stored as plain JSON in dlt's state.

dlt commits the state in the same load package as the trades that it covers. The proof also needs the sequence numbers at
the edges of covered time. Where the loaded trades can be queried, a `SeqLookup` returns them, and the state has the size
of its spans; otherwise they are part of the state.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

from extract.deribit.instrument_names import has_expired
from extract.deribit.schema import MAX_SEQ
from extract.deribit.streams import EPOCH_MS, Stream, TradeKey
from extract.sweep.ledger import SeqRange, SeqRuns

FAR_MS = 10**14
"""A time after all others."""
MAX_ABSENT = 1_000
"""Ranges of absent trades in the state, of which the longest are kept."""


class Span(NamedTuple):
    """Time from start_ms to end_ms, both included."""

    start_ms: int
    end_ms: int


class LoadedTrade(NamedTuple):
    """Time of a loaded trade and the hash of its content."""

    at_ms: int
    digest: int


class SeqLookup(Protocol):
    """Queries sequence numbers of the loaded trades and rejected records of a stream."""

    def last_seqs(self, span: Span, names: Collection[str]) -> dict[str, int]:
        """Greatest trade_seq in `span` of each of these instruments, without those that have none."""

    def first_seqs(self, span: Span) -> dict[str, int]:
        """Smallest trade_seq in `span` of every instrument."""

    def contents(self, span: Span, names: Collection[str]) -> dict[TradeKey, int]:
        """Content digest of the newest version of each trade of these instruments that is loaded with a time in `span`."""

    def trade_ids(self, keys: Collection[TradeKey]) -> dict[TradeKey, str]:
        """The id of each of these trades that was loaded first, without those that are not loaded."""


@dataclass
class StreamState:
    """Covered time of a stream, and the sequence numbers at its edges.

    `covered`: spans whose trades are loaded, ascending and not adjacent.
    `recent`: loaded trades of time that is not covered yet and will be read again.
    `last_seq`, by the end of a covered span: greatest trade_seq of each instrument that has not expired, after which
    the next span has to continue. `first_seq`, by the start of a covered span: smallest trade_seq of each instrument, up
    to which an earlier span has to extend, and from which an earlier trade has the number of another one.
    `undated`: instruments that traded after the date in their name, which therefore do not expire at it.
    `absent`: ranges of numbers that the exchange did not have, and that a later trade may have, without a `lookup`.
    `resume_ms`: start of requested time that is missing although later time is covered.
    With a `lookup`, the sequence numbers are queried when they are needed, and stored in memory only. `complete`: ends of
    spans all of whose last_seq are in memory, except of expired instruments, because this process has swept them from
    their start. `complete_firsts`: starts of spans all of whose first_seq are in memory.
    """

    covered: list[Span] = field(default_factory=list)
    recent: dict[TradeKey, LoadedTrade] = field(default_factory=dict)
    last_seq: dict[int, dict[str, int]] = field(default_factory=dict)
    first_seq: dict[int, dict[str, int]] = field(default_factory=dict)
    undated: set[str] = field(default_factory=set)
    absent: list[SeqRange] = field(default_factory=list)
    resume_ms: int | None = None
    lookup: SeqLookup | None = field(default=None, compare=False, repr=False)
    complete: set[int] = field(default_factory=set, compare=False, repr=False)
    complete_firsts: set[int] = field(default_factory=set, compare=False, repr=False)

    @classmethod
    def from_json(cls, value: Mapping[str, Any], lookup: SeqLookup | None = None) -> StreamState:
        return cls(
            covered=[Span(*span) for span in value.get("covered", [])],
            recent={
                (name, seq): LoadedTrade(at_ms, digest)
                for name, seq, at_ms, digest in value.get("recent", [])
            },
            last_seq={end_ms: dict(seqs) for end_ms, seqs in value.get("last_seq", [])},
            first_seq={start_ms: dict(seqs) for start_ms, seqs in value.get("first_seq", [])},
            undated=set(value.get("undated", [])),
            absent=[SeqRange(*each) for each in value.get("absent", [])],
            resume_ms=value.get("resume_ms"),
            lookup=lookup,
        )

    def to_json(self) -> dict[str, Any]:
        """A copy as plain JSON, independent of later changes."""
        edges: dict[str, Any] = {
            "last_seq": [[end_ms, dict(seqs)] for end_ms, seqs in self.last_seq.items()],
            "first_seq": [[start_ms, dict(seqs)] for start_ms, seqs in self.first_seq.items()],
        }
        if self.undated:
            edges["undated"] = sorted(self.undated)
        if self.absent:
            edges["absent"] = [[each.instrument_name, each.first, each.last] for each in self.absent]
        return {
            "covered": [list(span) for span in self.covered],
            "recent": [[*key, *trade] for key, trade in self.recent.items()],
            **({"resume_ms": self.resume_ms} if self.resume_ms is not None else {}),
            **(edges if self.lookup is None else {}),
        }

    def wanted(self, since_ms: int | None, until_ms: int) -> list[Span]:
        """Spans to fetch: from `since_ms`, or from where an earlier run ended, up to `until_ms`."""
        start_ms = self.resume_ms if since_ms is None else since_ms
        if start_ms is None:
            start_ms = self.covered[-1].end_ms + 1 if self.covered else EPOCH_MS
        return subtract(Span(start_ms, until_ms), self.covered)

    def to_read_again(self) -> StreamState:
        """A state in which exactly the covered time is missing; it is never stored."""
        return StreamState(covered=subtract(Span(EPOCH_MS + 1, FAR_MS), self.covered))

    def note_missing(self, start_ms: int | None, since_ms: int | None) -> None:
        """Let a run that is interrupted be resumed at `start_ms`, the oldest missing time since `since_ms`, if any.

        An earlier run that was interrupted at a time before `since_ms` is resumed there.
        """
        if since_ms is None or self.resume_ms is None or self.resume_ms >= since_ms:
            self.resume_ms = start_ms

    @property
    def covered_ms(self) -> int:
        """Milliseconds of covered time."""
        return sum(span.end_ms - span.start_ms + 1 for span in self.covered)

    def span_start(self, start_ms: int) -> int:
        """Start of the covered span that ends right before `start_ms`; `start_ms` itself if there is none."""
        return next((span.start_ms for span in self.covered if span.end_ms + 1 == start_ms), start_ms)

    def last_before(self, start_ms: int, names: Collection[str]) -> Mapping[str, int]:
        """Last trade_seq of the instruments `names` in the covered span that ends right before `start_ms`."""
        span = next((span for span in self.covered if span.end_ms + 1 == start_ms), None)
        return self._last_seqs(span, names) if span else {}

    def first_after(self, end_ms: int) -> Mapping[str, int]:
        """First trade_seq, greater than 1, of each instrument in the covered span that starts right after `end_ms`."""
        span = next((span for span in self.covered if span.start_ms == end_ms + 1), None)
        return {name: seq for name, seq in self._first_seqs(span).items() if seq > 1} if span else {}

    def greatest_before(self, start_ms: int, names: Collection[str]) -> Mapping[str, int]:
        """Greatest trade_seq of the instruments `names` in covered time before `start_ms`.

        An instrument of the span right before `start_ms` was compared with earlier spans when that was swept.
        """
        greatest = dict(self.last_before(start_ms, names))
        unknown = set(names) - greatest.keys()
        for span in self.covered:
            if unknown and span.end_ms + 1 < start_ms:
                seqs = self._last_seqs(span, unknown)
                greatest |= {name: max(seqs[name], greatest.get(name, 0)) for name in unknown & seqs.keys()}
        return greatest

    def smallest_after(self, end_ms: int) -> Mapping[str, int]:
        """Smallest trade_seq of each instrument in covered time after `end_ms`."""
        smallest: dict[str, int] = {}
        for span in self.covered:
            if span.start_ms > end_ms:
                for name, seq in self._first_seqs(span).items():
                    smallest[name] = min(seq, smallest.get(name, seq))
        return smallest

    def may_be_after(self, end_ms: int, key: TradeKey) -> bool:
        """Whether a trade with this number may be in covered time after `end_ms`, as far as the state shows."""
        name, seq = key
        return any(
            self.first_seq.get(span.start_ms, {}).get(name, MAX_SEQ + 1)
            <= seq
            <= self.last_seq.get(span.end_ms, {}).get(name, MAX_SEQ)
            for span in self.covered
            if span.start_ms > end_ms
        )

    def _last_seqs(self, span: Span, names: Collection[str]) -> Mapping[str, int]:
        seqs = self.last_seq.setdefault(span.end_ms, {})
        if self.lookup and (unknown := set(names) - seqs.keys()):
            if span.end_ms in self.complete:
                unknown = expired(unknown, span.end_ms)
            if unknown:
                seqs |= self.lookup.last_seqs(span, unknown)
        return seqs

    def _first_seqs(self, span: Span) -> Mapping[str, int]:
        seqs = self.first_seq.setdefault(span.start_ms, {})
        if self.lookup and span.start_ms not in self.complete_firsts:
            loaded = self.lookup.first_seqs(span)
            seqs |= {name: min(seq, seqs.get(name, seq)) for name, seq in loaded.items()}
            self.complete_firsts.add(span.start_ms)
        return seqs

    def is_absent(self, key: TradeKey) -> bool:
        """Whether the exchange did not have a trade with this number."""
        name, seq = key
        return any(each.instrument_name == name and each.first <= seq <= each.last for each in self.absent)

    def note_absent(self, ranges: Iterable[SeqRange], fetched: Mapping[str, SeqRuns]) -> None:
        """Remember `ranges` that the exchange does not have, and forget numbers of trades that were `fetched`."""
        if self.lookup:
            return
        left: list[SeqRange] = []
        for each in [*self.absent, *ranges]:
            name, runs = each.instrument_name, fetched.get(each.instrument_name)
            if runs is None:
                left.append(each)
            else:
                left += [SeqRange(name, *hole) for hole in runs.missing(each.first, each.last)]
        known = {name for seqs in self.last_seq.values() for name in seqs}
        left = sorted({each for each in left if each.instrument_name in known}, key=len, reverse=True)
        self.absent = left[:MAX_ABSENT]

    def is_covered(self, at_ms: int) -> bool:
        return any(span.start_ms <= at_ms <= span.end_ms for span in self.covered)

    def add_span(self, span: Span, first_seq: Mapping[str, int], last_seq: Mapping[str, int]) -> None:
        """Mark `span` as covered, adjacent to covered time or not, with the first and last trade_seq of its instruments."""
        start_ms = self.span_start(span.start_ms)
        is_complete = start_ms == span.start_ms or span.start_ms - 1 in self.complete
        before = self.last_seq.pop(span.start_ms - 1, {})
        firsts = self.first_seq.setdefault(start_ms, {}) if start_ms > EPOCH_MS else {}
        for name, seq in first_seq.items():
            if name not in before:  # a known one has its first_seq already
                firsts.setdefault(name, seq)
        end_ms = next((each.end_ms for each in self.covered if each.start_ms == span.end_ms + 1), span.end_ms)
        for name, seq in self.first_seq.pop(span.end_ms + 1, {}).items():
            if name not in before and name not in last_seq:
                firsts.setdefault(name, seq)
        self._note_firsts(span, start_ms, end_ms, firsts)
        # If the span ends next to a later covered one, instruments of that one keep their last trade_seq. What is not
        # known of it can be looked up, but not the trades of this span, which are older.
        after = self.last_seq.get(end_ms, {})
        is_after_complete = end_ms == span.end_ms or end_ms in self.complete or self.lookup is None
        seqs = {**before, **last_seq, **after} if is_after_complete else after
        self.undated |= expired(last_seq, span.start_ms)
        dropped = expired(seqs.keys() - last_seq.keys() - self.undated, end_ms)
        self.last_seq[end_ms] = {name: seq for name, seq in seqs.items() if name not in dropped}
        self.complete -= {span.start_ms - 1, end_ms}
        if is_complete and is_after_complete:
            self.complete.add(end_ms)
        self.covered = merge([*self.covered, span])

    def _note_firsts(self, span: Span, start_ms: int, end_ms: int, firsts: dict[str, int]) -> None:
        """Note which first_seq are complete, once `span` is a part of the span from `start_ms` to `end_ms`."""
        is_complete = start_ms == span.start_ms or start_ms in self.complete_firsts
        is_complete &= end_ms == span.end_ms or span.end_ms + 1 in self.complete_firsts
        self.complete_firsts -= {start_ms, span.end_ms + 1}
        if is_complete:
            self.complete_firsts.add(start_ms)
        if not self.lookup:  # the state must not grow with history
            began = {name for name, seq in firsts.items() if seq == 1}
            for name in expired(began, end_ms):
                del firsts[name]

    def merge_with(self, other: StreamState) -> StreamState:
        """The state of two loaders together, once one database has the trades of both, where they can be looked up."""
        resume_ms = min(
            (each for each in (self.resume_ms, other.resume_ms) if each is not None), default=None
        )
        covered = merge([*self.covered, *other.covered])
        return StreamState(covered, {**self.recent, **other.recent}, resume_ms=resume_ms)

    def keep_recent(self, trades: Mapping[TradeKey, LoadedTrade], overlap_ms: int) -> None:
        """Keep loaded `trades` of time that is not covered yet, and of the last `overlap_ms` of covered time."""
        from_ms = self.covered[-1].end_ms - overlap_ms if self.covered else 0
        self.recent = {
            key: each
            for key, each in {**self.recent, **trades}.items()
            if each.at_ms > from_ms or not self.is_covered(each.at_ms)
        }


def read_states(
    stored: Mapping[str, Any],
    streams: Iterable[Stream],
    lookup_of: Callable[[Stream], SeqLookup | None] = lambda stream: None,
) -> dict[Stream, StreamState]:
    """The state of each stream from plain JSON by stream name; an empty state if there is none."""
    return {
        stream: StreamState.from_json(stored.get(str(stream), {}), lookup_of(stream)) for stream in streams
    }


def expired(names: Iterable[str], at_ms: int) -> set[str]:
    """Those of `names` that had expired at `at_ms` by the date in them."""
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    return {name for name in names if has_expired(name, at)}


def subtract(whole: Span, parts: Iterable[Span]) -> list[Span]:
    """Spans of `whole` that no part covers, ascending."""
    rest: list[Span] = []
    start_ms = whole.start_ms
    for part in sorted(parts):
        if part.start_ms > whole.end_ms:
            break
        if part.start_ms > start_ms:
            rest.append(Span(start_ms, part.start_ms - 1))
        start_ms = max(start_ms, part.end_ms + 1)
    if start_ms <= whole.end_ms:
        rest.append(Span(start_ms, whole.end_ms))
    return rest


def merge(spans: Iterable[Span]) -> list[Span]:
    """Merge overlapping and adjacent spans; ascending."""
    merged: list[Span] = []
    for span in sorted(spans):
        if merged and span.start_ms <= merged[-1].end_ms + 1:
            merged[-1] = Span(merged[-1].start_ms, max(merged[-1].end_ms, span.end_ms))
        else:
            merged.append(span)
    return merged
