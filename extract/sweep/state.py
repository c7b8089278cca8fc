"""Checkpoint of each stream between runs, stored as plain JSON in dlt's state.

dlt commits the state in the same load package as the trades that it covers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from extract.deribit.instrument_names import has_expired
from extract.deribit.streams import EPOCH_MS, Stream, TradeKey


class Span(NamedTuple):
    """Time from start_ms to end_ms, both included."""

    start_ms: int
    end_ms: int


class LoadedTrade(NamedTuple):
    """Time of a loaded trade and the hash of its content."""

    at_ms: int
    digest: int


@dataclass
class StreamState:
    """Covered time of a stream, and the sequence numbers at its edges.

    `covered`: spans whose trades are loaded, ascending and not adjacent.
    `recent`: loaded trades of time that is not covered yet and will be read again.
    `last_seq`, by the end of a covered span: greatest trade_seq of each instrument that has not expired, after which
    the next span has to continue. `first_seq`, by the start of a covered span: smallest trade_seq of each instrument
    that traded before the span, up to which an earlier span has to extend.
    """

    covered: list[Span] = field(default_factory=list)
    recent: dict[TradeKey, LoadedTrade] = field(default_factory=dict)
    last_seq: dict[int, dict[str, int]] = field(default_factory=dict)
    first_seq: dict[int, dict[str, int]] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> StreamState:
        return cls(
            covered=[Span(*span) for span in value.get("covered", [])],
            recent={
                (name, seq): LoadedTrade(at_ms, digest)
                for name, seq, at_ms, digest in value.get("recent", [])
            },
            last_seq={end_ms: dict(seqs) for end_ms, seqs in value.get("last_seq", [])},
            first_seq={start_ms: dict(seqs) for start_ms, seqs in value.get("first_seq", [])},
        )

    def to_json(self) -> dict[str, Any]:
        """A copy as plain JSON, independent of later changes."""
        return {
            "covered": [list(span) for span in self.covered],
            "recent": [[*key, *trade] for key, trade in self.recent.items()],
            "last_seq": [[end_ms, dict(seqs)] for end_ms, seqs in self.last_seq.items()],
            "first_seq": [[start_ms, dict(seqs)] for start_ms, seqs in self.first_seq.items()],
        }

    def wanted(self, since_ms: int | None, until_ms: int) -> list[Span]:
        """Spans to fetch: from `since_ms`, or from the end of the newest covered span, up to `until_ms`."""
        start_ms = since_ms
        if start_ms is None:
            start_ms = self.covered[-1].end_ms + 1 if self.covered else EPOCH_MS
        return subtract(Span(start_ms, until_ms), self.covered)

    def span_start(self, start_ms: int) -> int:
        """Start of the covered span that ends right before `start_ms`; `start_ms` itself if there is none."""
        return next((span.start_ms for span in self.covered if span.end_ms + 1 == start_ms), start_ms)

    def last_before(self, start_ms: int) -> Mapping[str, int]:
        """Last trade_seq of each instrument in the covered span that ends right before `start_ms`."""
        return self.last_seq.get(start_ms - 1, {})

    def first_after(self, end_ms: int) -> Mapping[str, int]:
        """First trade_seq of each instrument in the covered span that starts right after `end_ms`."""
        return self.first_seq.get(end_ms + 1, {})

    def is_covered(self, at_ms: int) -> bool:
        return any(span.start_ms <= at_ms <= span.end_ms for span in self.covered)

    def add_span(self, span: Span, first_seq: Mapping[str, int], last_seq: Mapping[str, int]) -> None:
        """Mark `span` as covered, adjacent to covered time or not, with the first and last trade_seq of its instruments."""
        start_ms = self.span_start(span.start_ms)
        before = self.last_seq.pop(span.start_ms - 1, {})
        firsts = self.first_seq.setdefault(start_ms, {}) if start_ms > EPOCH_MS else {}
        for name, seq in first_seq.items():
            # An instrument that began within the span has no trade before it; a known one has its first_seq already.
            if seq > 1 and name not in before:
                firsts.setdefault(name, seq)
        end_ms = next((each.end_ms for each in self.covered if each.start_ms == span.end_ms + 1), span.end_ms)
        for name, seq in self.first_seq.pop(span.end_ms + 1, {}).items():
            if start_ms > EPOCH_MS and name not in before and name not in last_seq:
                firsts.setdefault(name, seq)
        # If the span ends next to a later covered one, instruments of that one keep their last trade_seq.
        after = self.last_seq.get(end_ms, {})
        self.last_seq[end_ms] = drop_expired({**before, **last_seq, **after}, end_ms)
        self.covered = merge([*self.covered, span])

    def merge_with(self, other: StreamState) -> StreamState:
        """The state of two loaders together, once one database has the trades of both.

        Covered spans that overlap or are adjacent become one span, with the sequence numbers at its edges.
        """
        both = StreamState(merge([*self.covered, *other.covered]), {**self.recent, **other.recent})
        born: dict[int, set[str]] = {}
        for side in (self, other):
            for part in side.covered:
                whole = next(each for each in both.covered if each.start_ms <= part.start_ms <= each.end_ms)
                lasts, firsts = (
                    side.last_seq.get(part.end_ms, {}),
                    side.first_seq.get(part.start_ms, {}),
                )
                known = both.last_seq.setdefault(whole.end_ms, {})
                known.update({name: max(seq, known.get(name, 0)) for name, seq in lasts.items()})
                oldest = both.first_seq.setdefault(whole.start_ms, {})
                oldest.update({name: min(seq, oldest.get(name, seq)) for name, seq in firsts.items()})
                # An instrument that traded in a part, without first_seq, began in that part.
                born.setdefault(whole.start_ms, set()).update(lasts.keys() - firsts.keys())
        both.last_seq = {end_ms: drop_expired(seqs, end_ms) for end_ms, seqs in both.last_seq.items()}
        both.first_seq = {
            start_ms: {name: seq for name, seq in seqs.items() if name not in born[start_ms]}
            for start_ms, seqs in both.first_seq.items()
            if start_ms > EPOCH_MS
        }
        return both

    def keep_recent(self, trades: Mapping[TradeKey, LoadedTrade], overlap_ms: int) -> None:
        """Keep loaded `trades` of time that is not covered yet, and of the last `overlap_ms` of covered time."""
        from_ms = self.covered[-1].end_ms - overlap_ms if self.covered else 0
        self.recent = {
            key: each
            for key, each in {**self.recent, **trades}.items()
            if each.at_ms > from_ms or not self.is_covered(each.at_ms)
        }


def read_states(stored: Mapping[str, Any], streams: Iterable[Stream]) -> dict[Stream, StreamState]:
    """The state of each stream from plain JSON by stream name; an empty state if there is none."""
    return {stream: StreamState.from_json(stored.get(str(stream), {})) for stream in streams}


def drop_expired(seqs: Mapping[str, int], at_ms: int) -> dict[str, int]:
    """`seqs` without the instruments that had expired at `at_ms`, so that the state does not grow with history."""
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    return {name: seq for name, seq in seqs.items() if not has_expired(name, at)}


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
