"""Questions of the client: a statement for ClickHouse, routes for the HTTP API, and what has to be proven."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, Literal

import pyarrow as pa

from extract.clickhouse.statements import load_statements, render
from extract.errors import UsageError
from extract.times import parse_time_ms

STATEMENTS = load_statements(__file__, "client.sql")
When = str | datetime | date
"""A time: an aware datetime, a day (its start in UTC), or text such as 2026-01-31, 2026-01-31T08:00Z or 7d."""
FOREVER_MS = 4_102_444_800_000
"""2100-01-01, the end of a question without one; ClickHouse's DateTime ends in 2106."""
HOUR_MS = 3_600_000
ALL = "all"
"""As `since`: from the first row."""


@dataclass(frozen=True)
class Route:
    """One request to the HTTP API; values of `query` that are None are left out. Without pages it takes no limit."""

    path: str
    query: Mapping[str, Any] = field(default_factory=dict)
    has_pages: bool = True


@dataclass(frozen=True)
class Subject:
    """What the coverage of an answer is about, from `since_ms` until `until_ms`, in ms since 1970 UTC.

    `outcomes`: options that expired in that time, from the creation of the first one. `hour`: the hour of the answer.
    """

    kind: Literal["instruments", "outcomes", "hour", "series", "everything"]
    names: tuple[str, ...] = ()
    since_ms: int = 0
    until_ms: int = FOREVER_MS
    series: str = ""


@dataclass(frozen=True)
class Question:
    """`texts`: fixed texts of the statement. `order`: columns by which the answer is sorted.

    `wider`: parameters with which a database is asked again if the first answer has no row; the HTTP API does that itself.
    """

    statement: str
    parameters: Mapping[str, Any]
    routes: Sequence[Route]
    subject: Subject
    texts: Mapping[str, str] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    index: str | None = None
    wider: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sql(self) -> str:
        """The statement, with parameters."""
        return render(STATEMENTS[self.statement], self.texts.__getitem__).strip()

    @property
    def text(self) -> str:
        """The statement with the values of its parameters, for any client of ClickHouse."""
        values = {**self.parameters, **self.wider}
        return re.sub(r"\{(\w+):[^}]+\}", lambda match: _literal(values[match[1]]), self.sql)


def _literal(value: object) -> str:
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return str(value)


def to_ms(at: When, name: str) -> int:
    """Milliseconds since 1970 of a time. Raises UsageError for text that is none, and for a datetime without a zone."""
    if isinstance(at, str):
        return parse_time_ms(at, name, now_ms())
    if not isinstance(at, datetime):
        at = datetime(at.year, at.month, at.day, tzinfo=UTC)
    if at.tzinfo is None:
        raise UsageError(f"{name} {at} has no time zone; write it like datetime({at.year}, …, tzinfo=UTC).")
    return round(at.timestamp() * 1000)


def bounds_ms(what: str, since: When | None, until: When | None, limit: int | None = None) -> tuple[int, int]:
    """Start and end of the requested time. Raises UsageError without a start, unless `limit` bounds the answer."""
    if since is None and limit is None:
        raise UsageError(
            f"{what} without a start may be millions of rows; give since='7d' (or a date), or since='all' for all of them."
        )
    since_ms = 0 if since in (None, ALL) else to_ms(since, "since")  # type: ignore[arg-type]
    until_ms = FOREVER_MS if until is None else to_ms(until, "until")
    if since_ms >= until_ms:
        raise UsageError(f"since {since} is not before until {until}.")
    return since_ms, until_ms


def now_ms() -> int:
    return round(time.time() * 1000)


def normalise(table: pa.Table, *, decimals: bool) -> pa.Table:
    """The table with aware times, days as dates, text and flags, and decimals or floats; columns keep their names."""
    columns = [_normalised(name, table.column(name), decimals) for name in table.column_names]
    return pa.table(dict(zip(table.column_names, columns, strict=True)))


_SECONDS = frozenset({"bucket_at", "expiry", "first_traded_on", "last_traded_on"})
"""Columns of type DateTime, which ClickHouse writes to Arrow as a number of seconds."""
_DAYS = frozenset({"day", "date"})


def _normalised(name: str, column: pa.ChunkedArray, decimals: bool) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return column.cast(pa.string())
    if pa.types.is_binary(kind) or pa.types.is_large_string(kind):
        return column.cast(pa.string())
    if name in _SECONDS and pa.types.is_integer(kind):
        return column.cast(pa.int64()).cast(pa.timestamp("s", "UTC")).cast(pa.timestamp("ms", "UTC"))
    if name in _DAYS and pa.types.is_integer(kind):
        return column.cast(pa.int32()).cast(pa.date32())
    if pa.types.is_timestamp(kind):
        return column.cast(pa.timestamp("us" if kind.unit in ("us", "ns") else "ms", "UTC"))
    if pa.types.is_decimal(kind) and not decimals:
        return column.cast(pa.float64())
    return column
