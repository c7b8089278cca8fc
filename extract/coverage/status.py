"""How things stand for each currency and kind: what is loaded, how much of it is proven, how old it is."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from clickhouse_connect.driver.client import Client

from extract.clickhouse.settings import RAW_DATABASE
from extract.coverage.gaps import Gap, Scope, covered_spans, find_gaps, query_rows, require_covered
from extract.deribit.streams import Stream

_TRADES = f"""
with

instruments as (
    select
        instrument_name,
        any(currency) as currency,
        any(kind) as kind,
        groupBitmap(toUInt64(trade_seq)) as trades,
        max(trade_seq) as last_seq
    from {RAW_DATABASE}.trades
    group by instrument_name
),

final as (
    select
        currency,
        kind,
        sum(instruments.trades) as trades,
        count() as instruments,
        sum(instruments.last_seq) > sum(instruments.trades) as is_lacking
    from instruments
    group by currency, kind
)

select * from final"""

_LOADS = f"""
with final as (
    select coverage.currency as currency, coverage.kind as kind, max(loads.inserted_at) as last_load_at
    from {RAW_DATABASE}.coverage as coverage
    inner join {RAW_DATABASE}._dlt_loads as loads on coverage._dlt_load_id = loads.load_id
    where loads.status = 0
    group by currency, kind
)

select * from final"""


@dataclass
class StreamStatus:
    """One currency and kind. `spans`: covered time, ascending and apart. Times are aware, in UTC.

    `trades` counts keys, `missing` and `absent` seqs: those that are gaps, and those that the exchange has not.
    """

    stream: Stream
    spans: list[tuple[datetime, datetime]]
    trades: int = 0
    instruments: int = 0
    missing: int = 0
    absent: int = 0
    last_load_at: datetime | None = None
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def proven_share(self) -> float:
        """Of all seqs that are asked for, those that are there or that the exchange has not; 1 if there are none.

        Asked for are the seqs of each instrument from its first one in covered time to the last one seen, or to its
        last one at all where that is known.
        """
        asked = self.trades + self.missing + self.absent
        return 1 - self.missing / asked if asked else 1.0

    @property
    def lag_seconds(self) -> int:
        """How long ago the covered time ends."""
        return max(0, round((self.now - self.spans[-1][1]).total_seconds()))

    def to_json(self) -> dict[str, Any]:
        return {
            "currency": self.stream.currency,
            "kind": self.stream.kind,
            "trades": self.trades,
            "instruments": self.instruments,
            "covered_from": iso(self.spans[0][0]),
            "covered_to": iso(self.spans[-1][1]),
            "missing": self.missing,
            "proven_share": self.proven_share,
            "lag_seconds": self.lag_seconds,
            "last_load_at": iso(self.last_load_at) if self.last_load_at else None,
        }


def status(client: Client) -> list[StreamStatus]:
    """One entry for each stream that is covered, by currency and kind. Raises CannotTellError where none is."""
    tables = require_covered(client)
    spans: dict[Stream, list[tuple[datetime, datetime]]] = defaultdict(list)
    for currency, kind, covered_from, covered_to in covered_spans(client):
        spans[Stream(currency, kind)].append((covered_from, covered_to))
    found = {stream: StreamStatus(stream, each) for stream, each in spans.items()}
    lacking: list[Stream] = []
    for currency, kind, trades, instruments, is_lacking in query_rows(client, _TRADES):
        stream = Stream(currency, kind)
        if stream in found:
            found[stream].trades, found[stream].instruments = trades, instruments
        if is_lacking:
            lacking.append(stream)
    for gap in _gaps(client, list(found) if "instrument_tails" in tables else lacking):
        if gap.known_absent:
            found[gap.stream].absent += len(gap)
        else:
            found[gap.stream].missing += len(gap)
    for currency, kind, last_load_at in query_rows(client, _LOADS):
        found[Stream(currency, kind)].last_load_at = last_load_at
    return [found[stream] for stream in sorted(found)]


def _gaps(client: Client, streams: list[Stream]) -> list[Gap]:
    """Asked only where a seq is lacking at all: whoever has everything from 1 on needs no second look."""
    if not streams:
        return []
    currencies, kinds = ({stream[at] for stream in streams} for at in (0, 1))
    return find_gaps(client, Scope(tuple(sorted(currencies)), tuple(sorted(kinds))))


def iso(at: datetime) -> str:
    """`2025-01-31T08:00:00.123Z`."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
