"""Proof that an answer carries: what of the requested time is loaded, missing, or absent at the exchange. Pure: no I/O."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

from extract.deribit.streams import Stream
from extract.times import END_MS, iso

DAY_MS = 86_400_000
Span = tuple[int, int]
"""Start and end of covered time, in ms since 1970 UTC."""


@dataclass(frozen=True)
class Proof:
    """`coverage` of an answer. `as_of_ms`: the end of the time that it speaks about; None if nothing is covered."""

    proven: bool
    missing: int
    absent: int
    as_of_ms: int | None

    def to_json(self) -> dict[str, Any]:
        return {
            "proven": self.proven,
            "missing": self.missing,
            "absent": self.absent,
            "as_of": None if self.as_of_ms is None else iso_ms(self.as_of_ms),
        }


NOTHING_COVERED = Proof(False, 0, 0, None)


def combined(proofs: Sequence[Proof]) -> Proof:
    """The proof of an answer that consists of others; its time ends where the earliest of theirs does."""
    if not proofs or any(proof.as_of_ms is None for proof in proofs):
        return NOTHING_COVERED
    return Proof(
        all(proof.proven for proof in proofs),
        sum(proof.missing for proof in proofs),
        sum(proof.absent for proof in proofs),
        min(proof.as_of_ms for proof in proofs if proof.as_of_ms is not None),
    )


class Hole(NamedTuple):
    """A range of missing numbers with the times of its neighbours; `row`: its item in `/v1/gaps`."""

    instrument_name: str
    stream: Stream
    missing: int
    is_absent: bool
    after_ms: int
    before_ms: int
    row: Mapping[str, Any]

    def overlaps(self, since_ms: int, until_ms: int) -> bool:
        """Whether one of its trades may be of that time: they are between its neighbours."""
        return self.before_ms >= since_ms and self.after_ms < until_ms


def hole_of(row: Mapping[str, Any]) -> Hole:
    """The hole of a row of the statement `gaps`. Before the first trade and after the last one, time is open."""
    after_ms, before_ms = row["after_ms"], row["before_ms"]
    return Hole(
        row["instrument_name"],
        Stream(row["currency"], row["kind"]),
        row["missing"],
        row["known_absent"],
        0 if after_ms is None else after_ms,
        END_MS if before_ms is None else before_ms,
        {name: value for name, value in row.items() if name not in ("after_ms", "before_ms")},
    )


@dataclass(frozen=True)
class TradeCoverage:
    """Covered time and holes of all streams, of one version of the data."""

    spans: Mapping[Stream, Sequence[Span]]
    holes: Sequence[Hole] = ()
    by_instrument: Mapping[str, Sequence[Hole]] = field(default_factory=dict)

    @classmethod
    def of(cls, spans: Iterable[Mapping[str, Any]], gaps: Iterable[Mapping[str, Any]]) -> TradeCoverage:
        """From the rows of the statements `spans` and `gaps`."""
        by_stream: dict[Stream, list[Span]] = defaultdict(list)
        for row in spans:
            by_stream[Stream(row["currency"], row["kind"])].append((row["from_ms"], row["to_ms"]))
        holes = [hole_of(row) for row in gaps]
        by_instrument: dict[str, list[Hole]] = defaultdict(list)
        for hole in holes:
            by_instrument[hole.instrument_name].append(hole)
        return cls(dict(by_stream), holes, dict(by_instrument))

    def of_instrument(self, name: str, stream: Stream, since_ms: int, until_ms: int) -> Proof:
        """The proof of one instrument's trades."""
        return self._proof([stream], self.by_instrument.get(name, ()), since_ms, until_ms)

    def of_streams(
        self, streams: Iterable[Stream], since_ms: int | None = None, until_ms: int = END_MS
    ) -> Proof:
        """The proof of all trades of `streams`; by default from the start of each one's covered time."""
        chosen = set(streams)
        holes = [hole for hole in self.holes if hole.stream in chosen]
        return self._proof(sorted(chosen), holes, since_ms, until_ms)

    def streams(self, currency: str = "", kind: str = "") -> list[Stream]:
        """Covered streams of a currency and a kind; "" for all."""
        return sorted(
            stream
            for stream in self.spans
            if (not currency or stream.currency == currency) and (not kind or stream.kind == kind)
        )

    def _proof(
        self, streams: Sequence[Stream], holes: Iterable[Hole], since_ms: int | None, until_ms: int
    ) -> Proof:
        if not streams or any(stream not in self.spans for stream in streams):
            return NOTHING_COVERED
        as_of_ms = min(self.spans[stream][-1][1] for stream in streams)
        end_ms = min(until_ms, as_of_ms)
        counts = {False: 0, True: 0}
        for hole in holes:
            if hole.overlaps(since_ms or 0, end_ms):
                counts[hole.is_absent] += hole.missing
        is_covered = all(self._is_covered(stream, since_ms, end_ms) for stream in streams)
        return Proof(is_covered and not counts[False], counts[False], counts[True], as_of_ms)

    def _is_covered(self, stream: Stream, since_ms: int | None, end_ms: int) -> bool:
        spans = self.spans[stream]
        if since_ms is None:
            return spans[0][0] < end_ms <= spans[0][1]
        return since_ms < end_ms and any(start <= since_ms and end_ms <= end for start, end in spans)

    def calendar(self, stream: Stream, days: Sequence[date]) -> Iterator[dict[str, Any]]:
        """The state of each UTC day of a stream, see docs/api.md."""
        holes = [hole for hole in self.holes if hole.stream == stream]
        for day in days:
            start_ms = day_ms(day)
            end_ms = start_ms + DAY_MS
            covered_ms = sum(
                max(0, min(end, end_ms) - max(start, start_ms)) for start, end in self.spans.get(stream, ())
            )
            of_day = [hole for hole in holes if hole.overlaps(start_ms, end_ms)]
            missing = sum(hole.missing for hole in of_day if not hole.is_absent)
            absent = sum(hole.missing for hole in of_day if hole.is_absent)
            state = (
                "missing" if missing and covered_ms
                else "absent" if absent and covered_ms
                else "proven" if covered_ms
                else "not_requested"
            )  # fmt: skip
            yield {
                "day": day.isoformat(),
                "state": state,
                "covered_share": covered_ms / DAY_MS,
                "missing": missing if covered_ms else 0,
                "absent": absent if covered_ms else 0,
            }


def days_between(first: date, last: date) -> list[date]:
    """The days from `first` to `last`, both included."""
    return [first + timedelta(days=day) for day in range((last - first).days + 1)]


def day_ms(day: date) -> int:
    return round(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)


def iso_ms(at_ms: int) -> str:
    """`2025-01-31T08:00:00.000Z`, always with milliseconds."""
    text = iso(at_ms)
    return text if "." in text else text.replace("Z", ".000Z")
