"""Odd answers that load packages have recorded, so that one which the exchange repeats is recorded once."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from extract.deribit.schema import RejectedTrade
from extract.deribit.streams import Stream
from extract.errors import TapeError
from extract.sweep.state import Span

IDLE_GROWTH_MS = 10 * 60_000
"""Growth of covered time without a trade, or of unproven time, after which a small load package stores it."""
MAX_CHECKSUMS = 1_000
"""Checksums of rejected records, of which the newest are kept."""

RejectedOfStream = tuple[Stream, RejectedTrade]
Unproven = tuple[Stream, Span, TapeError]


@dataclass
class Recorded:
    """State of the resource `rejected_trades`, stored as plain JSON.

    `checksums`: those of the newest rejected records. `unproven`: by name of a stream that was set aside, its unproven time
    from the beginning to the end.
    """

    checksums: list[str] = field(default_factory=list)
    unproven: dict[str, Span] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Recorded:
        unproven = {name: Span(*span) for name, span in value.get("unproven", {}).items()}
        return cls(list(value.get("checksums", ())), unproven)

    def to_json(self) -> dict[str, Any]:
        unproven = {name: list(span) for name, span in sorted(self.unproven.items())}
        return {"checksums": list(self.checksums), "unproven": unproven}

    def new_rejected(self, rejected: Iterable[RejectedOfStream]) -> list[RejectedOfStream]:
        """Those that are not recorded."""
        known = set(self.checksums)
        return [each for each in rejected if _checksum(each) not in known]

    def new_unproven(self, unproven: Iterable[Unproven]) -> list[Unproven]:
        """Those of streams whose unproven time begins earlier than what is recorded, or has grown by IDLE_GROWTH_MS."""
        spans = _by_stream(unproven)
        return [each for each in unproven if self._is_new(str(each[0]), spans[str(each[0])])]

    def add(self, rejected: Iterable[RejectedOfStream], unproven: Iterable[Unproven]) -> None:
        """Remember what a load package records."""
        self.checksums = [*self.checksums, *dict.fromkeys(map(_checksum, rejected))][-MAX_CHECKSUMS:]
        self.unproven |= _by_stream(unproven)

    def forget(self, streams: Collection[str]) -> None:
        """Forget the unproven time of streams that could be loaded again."""
        self.unproven = {name: span for name, span in self.unproven.items() if name not in streams}

    def _is_new(self, name: str, span: Span) -> bool:
        before = self.unproven.get(name)
        return (
            before is None or span.start_ms < before.start_ms or span.end_ms - before.end_ms >= IDLE_GROWTH_MS
        )


def _by_stream(unproven: Iterable[Unproven]) -> dict[str, Span]:
    spans: dict[str, Span] = {}
    for stream, span, _ in unproven:
        before = spans.setdefault(str(stream), span)
        spans[str(stream)] = Span(min(before.start_ms, span.start_ms), max(before.end_ms, span.end_ms))
    return spans


def _checksum(rejected: RejectedOfStream) -> str:
    """64 bits, because a record with the checksum of another one would be lost."""
    stream, bad = rejected
    return hashlib.blake2b(f"{stream} {bad.raw}".encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
