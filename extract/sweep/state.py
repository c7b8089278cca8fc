"""What is remembered between runs for each stream of trades, as plain JSON in dlt's state.

A stream is one currency and kind. Its state moves only with the data that it vouches for: dlt commits both in the
same load package.
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
    """A loaded trade's time and the hash of its content."""

    at_ms: int
    digest: int


@dataclass
class StreamState:
    """`covered`: spans of time whose trades are loaded, ascending and apart from each other.

    `recent`: loaded trades of time that is not covered yet and will be read again.
    `last_seq`, by the end of a covered span: the greatest seq of each instrument that may still trade; from there
    the proof goes on. `first_seq`, by its beginning: the least seq of each instrument older than the span; up to
    there the proof goes when an earlier span grows towards it.
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
        """As plain JSON that stays as it is when the state moves on."""
        return {
            "covered": [list(span) for span in self.covered],
            "recent": [[*key, *seen] for key, seen in self.recent.items()],
            "last_seq": [[end_ms, dict(seqs)] for end_ms, seqs in self.last_seq.items()],
            "first_seq": [[start_ms, dict(seqs)] for start_ms, seqs in self.first_seq.items()],
        }

    def wanted(self, since_ms: int | None, until_ms: int) -> list[Span]:
        """The spans still to be fetched: from `since_ms`, else from where the newest covered time ends."""
        start_ms = since_ms
        if start_ms is None:
            start_ms = self.covered[-1].end_ms + 1 if self.covered else EPOCH_MS
        return subtract(Span(start_ms, until_ms), self.covered)

    def span_start(self, start_ms: int) -> int:
        """Where the covered time that `start_ms` goes on from begins; `start_ms` itself where there is none."""
        return next((span.start_ms for span in self.covered if span.end_ms + 1 == start_ms), start_ms)

    def last_before(self, start_ms: int) -> Mapping[str, int]:
        """The last seqs of the covered time that ends right before `start_ms`."""
        return self.last_seq.get(start_ms - 1, {})

    def first_after(self, end_ms: int) -> Mapping[str, int]:
        """The first seqs of the covered time that begins right after `end_ms`."""
        return self.first_seq.get(end_ms + 1, {})

    def is_covered(self, at_ms: int) -> bool:
        return any(span.start_ms <= at_ms <= span.end_ms for span in self.covered)

    def cover(self, span: Span, first_seq: Mapping[str, int], last_seq: Mapping[str, int]) -> None:
        """Adds `span`, next to covered time or apart from it, with the seqs at which the proof found its edges."""
        begin_ms = self.span_start(span.start_ms)
        before = self.last_seq.pop(span.start_ms - 1, {})
        firsts = self.first_seq.setdefault(begin_ms, {}) if begin_ms > EPOCH_MS else {}
        for name, seq in first_seq.items():
            # Who began within the span has no seq before it; who was known has given its first already.
            if seq > 1 and name not in before:
                firsts.setdefault(name, seq)
        end_ms = next((each.end_ms for each in self.covered if each.start_ms == span.end_ms + 1), span.end_ms)
        for name, seq in self.first_seq.pop(span.end_ms + 1, {}).items():
            if begin_ms > EPOCH_MS and name not in before and name not in last_seq:
                firsts.setdefault(name, seq)
        # Covered time that the span grew into goes on knowing what traded before it and not within it.
        after = self.last_seq.get(end_ms, {})
        self.last_seq[end_ms] = drop_expired({**before, **last_seq, **after}, end_ms)
        self.covered = merge([*self.covered, span])

    def united(self, other: StreamState) -> StreamState:
        """What two loaders know together, once one database has the trades of both.

        Covered time that overlaps or touches becomes one span, with the seqs at whose edges it begins and ends.
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
                # Who traded in a part, and has no seq before it, began there.
                born.setdefault(whole.start_ms, set()).update(lasts.keys() - firsts.keys())
        both.last_seq = {end_ms: drop_expired(seqs, end_ms) for end_ms, seqs in both.last_seq.items()}
        both.first_seq = {
            start_ms: {name: seq for name, seq in seqs.items() if name not in born[start_ms]}
            for start_ms, seqs in both.first_seq.items()
            if start_ms > EPOCH_MS
        }
        return both

    def remember(self, seen: Mapping[TradeKey, LoadedTrade], overlap_ms: int) -> None:
        """Keeps what was loaded of time that is not covered yet, and of the last `overlap_ms` that are."""
        from_ms = self.covered[-1].end_ms - overlap_ms if self.covered else 0
        self.recent = {
            key: each
            for key, each in {**self.recent, **seen}.items()
            if each.at_ms > from_ms or not self.is_covered(each.at_ms)
        }


def read_states(kept: Mapping[str, Any], streams: Iterable[Stream]) -> dict[Stream, StreamState]:
    """The state of each stream from the plain JSON that is kept by its name; a new one where nothing is."""
    return {stream: StreamState.from_json(kept.get(str(stream), {})) for stream in streams}


def drop_expired(seqs: Mapping[str, int], at_ms: int) -> dict[str, int]:
    """`seqs` without the instruments that had expired at `at_ms`: the state holds what is alive, not all history."""
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    return {name: seq for name, seq in seqs.items() if not has_expired(name, at)}


def subtract(whole: Span, parts: Iterable[Span]) -> list[Span]:
    """What of `whole` no part covers, ascending."""
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
    """The same time as `spans` in as few spans as possible, ascending."""
    merged: list[Span] = []
    for span in sorted(spans):
        if merged and span.start_ms <= merged[-1].end_ms + 1:
            merged[-1] = Span(merged[-1].start_ms, max(merged[-1].end_ms, span.end_ms))
        else:
            merged.append(span)
    return merged
