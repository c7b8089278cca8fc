"""Status and gaps of the series besides trades, from the raw tables, without a request to the exchange."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from extract.clickhouse.client import Database
from extract.clickhouse.finished import CONSISTENT
from extract.clickhouse.settings import RAW_DATABASE
from extract.clickhouse.statements import load_statements, render
from extract.coverage.gaps import EVERYTHING, Scope
from extract.deribit.streams import Stream
from extract.source.series import KINDS_OF
from extract.source.tables import SERIES_COVERAGE, loaded_relation
from extract.times import iso

_STATEMENTS = load_statements(__file__, "series.sql")


@dataclass(frozen=True)
class SeriesStream:
    """One key of a series, as it is requested: `funding_rates` and `BTC-PERPETUAL`, `settlements` and `BTC delivery`."""

    series: str
    key: str

    @property
    def currency(self) -> str:
        """The currency at the start of the key: `BTC` of `BTC-PERPETUAL`, `btc_usd` and `BTC delivery`."""
        return self.key.replace("_", "-").replace(" ", "-").split("-")[0].upper()

    def is_in(self, scope: Scope) -> bool:
        """Whether the series belongs to a stream of `scope`; of a pair, either currency counts."""
        currencies = self.key.upper().replace("_", "-").replace(" ", "-").split("-")
        return (not scope.currencies or bool(set(scope.currencies) & set(currencies))) and (
            not scope.kinds or bool(KINDS_OF[self.series] & set(scope.kinds))
        )

    def __str__(self) -> str:
        return f"{self.series} of {self.key}"


@dataclass(frozen=True)
class SeriesRowsGap:
    """Rows that a series should have from `first_ms` to `last_ms`, in ms since 1970 UTC, both included.

    `known_absent`: requested again a day later, and the exchange still did not have them; of deliveries, the delivery
    price of the index is loaded instead.
    """

    stream: SeriesStream
    first_ms: int
    last_ms: int
    missing: int
    detail: str
    known_absent: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "series": self.stream.series,
            "series_key": self.stream.key,
            "first_missing_at": iso(self.first_ms),
            "last_missing_at": iso(self.last_ms),
            "missing": self.missing,
            "known_absent": self.known_absent,
            "detail": self.detail,
        }


@dataclass(frozen=True)
class UnprovenSeries:
    """A key of a series that a run set aside, and that was not loaded since; `reason` is one sentence."""

    stream: SeriesStream
    reason: str

    def __str__(self) -> str:
        return f"{self.stream} was set aside, and its newest rows are not proven: {self.reason}"


@dataclass
class SeriesStatus:
    """What is loaded of one key. `missing` and `absent` count rows that the exchange did not send.

    `disagreement`: sentences about sums that differ from the exchange's own.
    """

    stream: SeriesStream
    covered_from: datetime
    covered_to: datetime
    rows: int
    disagreement: str | None
    last_load_at: datetime
    missing: int = 0
    absent: int = 0
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def proven_share(self) -> float:
        """Share, 0 to 1, of the expected rows that are loaded or known to be absent."""
        expected = self.rows + self.missing + self.absent
        return 1 - self.missing / expected if expected else 1.0

    @property
    def lag_seconds(self) -> int:
        """Seconds since the newest row."""
        return max(0, round((self.now - self.covered_to).total_seconds()))

    def to_json(self) -> dict[str, Any]:
        """The keys of a stream of trades, without trades, and those of the series."""
        return {
            "currency": self.stream.currency,
            "kind": self.stream.series,
            "trades": 0,
            "instruments": 0,
            "covered_from": iso(self.covered_from.timestamp() * 1000),
            "covered_to": iso(self.covered_to.timestamp() * 1000),
            "missing": self.missing,
            "proven_share": self.proven_share,
            "lag_seconds": self.lag_seconds,
            "last_load_at": iso(round(self.last_load_at.timestamp() * 1000)),
            "series": self.stream.series,
            "series_key": self.stream.key,
            "rows": self.rows,
            "absent": self.absent,
            "disagreement": self.disagreement,
        }


def settlement_keys(stream: Stream) -> list[str]:
    """Keys of the settlements of a stream's instruments; bankruptcies, which are rare, have no time of their own."""
    types = ("settlement", "delivery") if stream.kind in ("future", "option") else ("settlement",)
    return [f"{stream.currency} {each}" for each in types]


def fetch_series_status(database: Database, scope: Scope = EVERYTHING) -> list[SeriesStatus]:
    """Status of each loaded key, by series and key; empty where no series is loaded."""
    missing: dict[tuple[SeriesStream, bool], int] = defaultdict(int)
    for gap in find_series_gaps(database, scope):
        missing[gap.stream, gap.known_absent] += gap.missing
    statuses = []
    for series, key, covered_from, covered_to, rows, disagreement, inserted_at in _query(database, "status"):
        stream = SeriesStream(series, key)
        if stream.is_in(scope):
            status = SeriesStatus(stream, covered_from, covered_to, rows, disagreement, inserted_at)
            status.missing, status.absent = missing[stream, False], missing[stream, True]
            statuses.append(status)
    return statuses


def find_series_gaps(database: Database, scope: Scope = EVERYTHING) -> list[SeriesRowsGap]:
    """Missing rows of the series of `scope`, by series, key and time; empty where no series is loaded."""
    gaps = (
        SeriesRowsGap(
            SeriesStream(series, key), _ms(first_at), _ms(last_at), missing, detail, bool(known_absent)
        )
        for series, key, first_at, last_at, missing, detail, known_absent in _query(database, "gaps")
    )
    return [gap for gap in gaps if gap.stream.is_in(scope)]


def find_unproven_series(database: Database, scope: Scope = EVERYTHING) -> list[UnprovenSeries]:
    """Keys of the series of `scope` that a run set aside, and that were not loaded since."""
    unproven = (
        UnprovenSeries(SeriesStream(series, key), reason)
        for series, key, reason in _query(database, "unproven")
    )
    return [each for each in unproven if each.stream.is_in(scope)]


def _query(database: Database, statement: str) -> list[tuple[Any, ...]]:
    """Rows of a statement of series.sql; none where no series was ever loaded."""
    tables = set(database.column(f"select name from system.tables where database = '{RAW_DATABASE}'"))
    if SERIES_COVERAGE.name not in tables and "rejected_records" not in tables:
        return []

    def resolve(name: str) -> str:
        if name in _STATEMENTS:
            return render(_STATEMENTS[name], resolve)
        return loaded_relation(name, tables)

    return database.rows(resolve(statement), None, CONSISTENT)


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)
