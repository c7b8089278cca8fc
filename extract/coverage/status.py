"""Coverage summary per currency and kind: loaded trades, proven share, lag."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from extract.clickhouse.client import Database
from extract.coverage.gaps import Scope, find_gaps, query, require_covered
from extract.deribit.streams import Stream


@dataclass
class StreamStatus:
    """One currency and kind. `spans`: covered time, ascending and disjoint. Times are aware, in UTC.

    `trades` counts distinct trades; `missing` and `absent` count seqs of gaps, `absent` those that the exchange does
    not have, of which `provisional` have to be requested again before that is certain.
    """

    stream: Stream
    spans: list[tuple[datetime, datetime]]
    trades: int = 0
    instruments: int = 0
    missing: int = 0
    absent: int = 0
    provisional: int = 0
    last_load_at: datetime | None = None
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def proven_share(self) -> float:
        """Share, 0 to 1, of the expected seqs that are loaded or known to be absent; 1 if none is expected.

        The expected seqs of an instrument are those from its first one in covered time to the last one loaded, or to
        its very last one if `tape gaps --tails` has fetched it.
        """
        expected = self.trades + self.missing + self.absent
        return 1 - self.missing / expected if expected else 1.0

    @property
    def lag_seconds(self) -> int:
        """Seconds since the end of the covered time."""
        return max(0, round((self.now - self.spans[-1][1]).total_seconds()))

    def to_json(self) -> dict[str, Any]:
        return {
            "currency": self.stream.currency,
            "kind": self.stream.kind,
            "trades": self.trades,
            "instruments": self.instruments,
            "covered_from": _iso(self.spans[0][0]),
            "covered_to": _iso(self.spans[-1][1]),
            "missing": self.missing,
            "proven_share": self.proven_share,
            "lag_seconds": self.lag_seconds,
            "last_load_at": _iso(self.last_load_at) if self.last_load_at else None,
        }


def fetch_status(database: Database) -> list[StreamStatus]:
    """Status of each covered stream, by currency and kind. Raises CannotTellError where no time is covered."""
    tables = require_covered(database)
    spans: dict[Stream, list[tuple[datetime, datetime]]] = defaultdict(list)
    for currency, kind, covered_from, covered_to in query(database, "covered_spans", tables):
        spans[Stream(currency, kind)].append((covered_from, covered_to))
    statuses = {stream: StreamStatus(stream, each) for stream, each in spans.items()}
    with_holes: set[Stream] = set()
    for currency, kind, trades, instruments, has_holes in query(database, "trade_counts", tables):
        stream = Stream(currency, kind)
        if stream in statuses:
            statuses[stream].trades, statuses[stream].instruments = trades, instruments
        if has_holes:
            with_holes.add(stream)
    # A rejected trade is missing also after the last loaded one, where it leaves no hole.
    with_holes |= {Stream(*row) for row in query(database, "rejected_streams", tables)} & set(statuses)
    # Without holes, rejected trades and known tails there are no gaps: the expensive statement is skipped.
    if streams := set(statuses) if "instrument_tails" in tables else with_holes:
        currencies, kinds = ({stream[at] for stream in streams} for at in (0, 1))
        for gap in find_gaps(database, Scope(tuple(sorted(currencies)), tuple(sorted(kinds)))):
            if gap.known_absent:
                statuses[gap.stream].absent += len(gap)
                statuses[gap.stream].provisional += len(gap) * gap.provisional
            else:
                statuses[gap.stream].missing += len(gap)
    for currency, kind, last_load_at in query(database, "last_loads", tables):
        statuses[Stream(currency, kind)].last_load_at = last_load_at
    return [statuses[stream] for stream in sorted(statuses)]


def _iso(at: datetime) -> str:
    """`2025-01-31T08:00:00.123Z`."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
