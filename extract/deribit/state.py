"""What is remembered between runs for each stream of trades, as plain JSON in dlt's state.

A stream is one currency and kind. Its state moves only with the data that it vouches for: dlt commits both in the
same load package.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

EPOCH_MS = 1_451_606_400_000
"""2016-01-01 UTC: the exchange has no trade before it."""


class Span(NamedTuple):
    """Time from start_ms to end_ms, both included."""

    start_ms: int
    end_ms: int


class Stream(NamedTuple):
    """The trades of one currency and kind."""

    currency: str
    kind: str

    def __str__(self) -> str:
        return f"{self.currency} {self.kind}"


@dataclass
class StreamState:
    """`covered`: spans of time whose trades are loaded, ascending and apart from each other.

    `recent`: (timestamp, content hash) of loaded trades later than the covered time, which is read again next time.
    `last_seq`: the greatest seq loaded of each instrument that may still trade.
    """

    covered: list[Span] = field(default_factory=list)
    recent: dict[int, int] = field(default_factory=dict)
    last_seq: dict[str, int] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> StreamState:
        return cls(
            covered=[Span(*span) for span in value.get("covered", [])],
            recent=dict(value.get("recent", [])),
            last_seq=dict(value.get("last_seq", {})),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "covered": [list(span) for span in self.covered],
            "recent": [[digest, at_ms] for digest, at_ms in self.recent.items()],
            "last_seq": self.last_seq,
        }

    @property
    def begins_at_one(self) -> bool:
        """Whether trades were taken from the exchange's beginning on, so that every seq from 1 is wanted."""
        return bool(self.covered) and self.covered[0].start_ms <= EPOCH_MS

    def wanted(self, since_ms: int | None, until_ms: int) -> list[Span]:
        """The spans still to be fetched: from `since_ms`, else from where the newest covered time ends."""
        start_ms = since_ms
        if start_ms is None:
            start_ms = self.covered[-1].end_ms + 1 if self.covered else EPOCH_MS
        return subtract(Span(start_ms, until_ms), self.covered)

    def cover(self, span: Span) -> None:
        """Adds `span` to the covered time."""
        self.covered = merge([*self.covered, span])


def subtract(whole: Span, parts: list[Span]) -> list[Span]:
    """What of `whole` no part covers, ascending."""
    rest: list[Span] = []
    start_ms = whole.start_ms
    for part in sorted(parts):
        if part.end_ms < start_ms:
            continue
        if part.start_ms > whole.end_ms:
            break
        if part.start_ms > start_ms:
            rest.append(Span(start_ms, part.start_ms - 1))
        start_ms = part.end_ms + 1
    if start_ms <= whole.end_ms:
        rest.append(Span(start_ms, whole.end_ms))
    return rest


def merge(spans: list[Span]) -> list[Span]:
    """The same time as `spans` in as few spans as possible, ascending."""
    merged: list[Span] = []
    for span in sorted(spans):
        if merged and span.start_ms <= merged[-1].end_ms + 1:
            merged[-1] = Span(merged[-1].start_ms, max(merged[-1].end_ms, span.end_ms))
        else:
            merged.append(span)
    return merged
