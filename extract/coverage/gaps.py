"""Find missing trades in the raw tables, without a request to the exchange."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from extract.clickhouse.client import Database
from extract.clickhouse.errors import ACCESS_DENIED, server_code
from extract.clickhouse.finished import CONSISTENT, describe_unfinished, unfinished_loads
from extract.clickhouse.settings import RAW_DATABASE
from extract.clickhouse.statements import load_statements, render
from extract.deribit.config import KINDS
from extract.deribit.streams import EPOCH_MS, Stream
from extract.errors import CannotTellError, OutsideError, UsageError
from extract.source.absent import ABSENT_STATEMENTS, absent_parameters
from extract.source.rejected import REJECTED_EXPRESSIONS
from extract.source.tables import loaded_relation
from extract.sweep.contradictions import REASON
from extract.sweep.ledger import SeqRange
from extract.times import iso

_STATEMENTS = {
    **ABSENT_STATEMENTS,
    **REJECTED_EXPRESSIONS,
    **load_statements(__file__, "coverage.sql"),
}


@dataclass(frozen=True)
class Scope:
    """Streams to consider; empty = all."""

    currencies: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()

    @classmethod
    def of(cls, currencies: Sequence[str] = (), kinds: Sequence[str] = ()) -> Scope:
        """Parse command-line values."""
        return cls(tuple(name.upper() for name in currencies), tuple(kinds))

    def require_kinds(self, loaded: Iterable[str]) -> None:
        """Raise UsageError for a kind that is neither documented by the exchange nor `loaded`."""
        known = dict.fromkeys([*KINDS, *loaded])
        for kind in self.kinds:
            if kind not in known:
                raise UsageError(f"--kind {kind!r} does not exist; the exchange has {', '.join(known)}.")

    def includes(self, stream: Stream) -> bool:
        return (not self.currencies or stream.currency in self.currencies) and (
            not self.kinds or stream.kind in self.kinds
        )

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of the statements in coverage.sql."""
        scope = absent_parameters(self.currencies, self.kinds)
        return {**scope, "epoch_ms": EPOCH_MS, "contradiction": REASON}

    @property
    def command(self) -> str:
        """The command that loads these streams."""
        options = [f"--currency {name}" for name in self.currencies] + [f"--kind {k}" for k in self.kinds]
        return " ".join(["dlt pipeline run", *options])


EVERYTHING = Scope()


@dataclass(frozen=True)
class Gap:
    """A range of missing trade_seq of one instrument, both ends included.

    `where`: `head` before the first loaded trade, `inner`, or `tail` after the last one.
    `known_absent`: requested by number, and the exchange did not have it. That is `provisional` until it was requested
    again an hour or more after the first time; `due`: it is time to request it again. `rejected`: received, but not
    decodable.
    """

    stream: Stream
    range: SeqRange
    where: str
    known_absent: bool
    rejected: bool
    provisional: bool = False
    due: bool = False

    def __len__(self) -> int:
        return len(self.range)

    def to_json(self) -> dict[str, Any]:
        return {
            "instrument_name": self.range.instrument_name,
            "first_missing_seq": self.range.first,
            "last_missing_seq": self.range.last,
            "missing": len(self),
            "where": self.where,
            "known_absent": self.known_absent,
        }


def find_gaps(database: Database, scope: Scope = EVERYTHING) -> list[Gap]:
    """Gaps of `scope`, by instrument and seq. Raises CannotTellError where no time is covered."""
    tables = require_covered(database, scope)
    return [
        Gap(
            Stream(currency, kind),
            SeqRange(name, first, last),
            where,
            known_absent=bool(absent),
            rejected=bool(rejected),
            provisional=bool(provisional),
            due=bool(due),
        )
        for name, currency, kind, first, last, where, absent, provisional, due, rejected in query(
            database, "gaps", tables, scope
        )
    ]


@dataclass(frozen=True)
class Unproven:
    """Time of a stream that a run set aside, in ms since 1970 UTC, which is not covered since; `reason` is one sentence."""

    stream: Stream
    from_ms: int
    to_ms: int
    reason: str

    def __str__(self) -> str:
        return (
            f"{self.stream} was set aside, and {iso(self.from_ms)} to {iso(self.to_ms)} is not proven: "
            f"{self.reason.rstrip('.')}. `dlt pipeline run --since {iso(self.from_ms)}` tries again."
        )


def find_unproven(database: Database, scope: Scope = EVERYTHING) -> list[Unproven]:
    """Time of `scope` that runs set aside and that is not covered since, the newest of each stream."""
    tables = _raw_tables(database)
    spans: dict[Stream, list[tuple[int, int]]] = {}
    for currency, kind, start, end in query(database, "covered_spans", tables, scope):
        spans.setdefault(Stream(currency, kind), []).append((_ms(start), _ms(end)))
    newest: dict[Stream, Unproven] = {}
    for currency, kind, from_ms, to_ms, reason in query(database, "unproven", tables, scope):
        stream = Stream(currency, kind)
        if not any(start <= from_ms and to_ms <= end for start, end in spans.get(stream, ())):
            newest[stream] = Unproven(stream, from_ms, to_ms, reason)
    return list(newest.values())


@dataclass(frozen=True)
class Contradiction:
    """Rejected trades of an instrument whose numbers, all within `range`, belong to loaded trades with other ids."""

    stream: Stream
    range: SeqRange
    trades: int

    def __str__(self) -> str:
        return (
            f"{self.trades:,} trades of {self.range.instrument_name} are rejected, because other trades have their numbers, "
            f"{self.range.first} to {self.range.last}: see deribit_raw.rejected_trades, reason '{REASON}'. Once that is "
            "settled, delete them there."
        )


def find_contradictions(database: Database, scope: Scope = EVERYTHING) -> list[Contradiction]:
    """Trades of `scope` that were rejected because other trades have their numbers, by instrument."""
    return [
        Contradiction(Stream(currency, kind), SeqRange(name, first, last), trades)
        for name, currency, kind, first, last, trades in query(
            database, "contradictions", _raw_tables(database), scope
        )
    ]


@dataclass(frozen=True)
class Unnumbered:
    """Rejected trades of a stream whose `records` have no valid number; they may be trades that are missing."""

    stream: Stream
    records: int

    def __str__(self) -> str:
        return (
            f"{self.records:,} records of {self.stream} cannot be read and have no trade_seq, so trades may be missing: see "
            "deribit_raw.rejected_trades. Once that is settled, delete them there."
        )


def find_unnumbered(database: Database, scope: Scope = EVERYTHING) -> list[Unnumbered]:
    """Rejected trades of `scope` without a valid number, by stream."""
    return [
        Unnumbered(Stream(currency, kind), records)
        for currency, kind, records in query(database, "unnumbered", _raw_tables(database), scope)
    ]


@dataclass(frozen=True)
class Detached:
    """Parts of a raw table that the server has set aside; rows of finished load packages may be missing with them."""

    table: str
    parts: int

    def __str__(self) -> str:
        name = f"{RAW_DATABASE}.{self.table}"
        return (
            f"ClickHouse has detached parts of {name} ({self.parts:,}), so rows that were loaded may be missing: see "
            "system.detached_parts. Restore a backup or load the data again, and drop them there by `alter table "
            f"{name} drop detached part`."
        )


def find_detached(database: Database) -> list[Detached]:
    """Raw tables with detached parts: without their rows, what is covered is not proven.

    None for a user who may not read system.detached_parts, which earlier versions did not grant to the roles.
    """
    try:
        return [Detached(*row) for row in query(database, "detached_parts", ())]
    except OutsideError as error:
        if server_code(error) != ACCESS_DENIED:
            raise
        return []


def _ms(at: datetime) -> int:
    return round(at.replace(tzinfo=UTC).timestamp() * 1000)


def _raw_tables(database: Database) -> set[str]:
    return set(database.column(f"select name from system.tables where database = '{RAW_DATABASE}'"))


def require_covered(database: Database, scope: Scope = EVERYTHING) -> set[str]:
    """Names of the raw tables.

    Raises CannotTellError where `scope`, or a part of it, was never loaded, and UsageError for a kind that is neither
    loaded nor documented by the exchange.
    """
    tables = _raw_tables(database)
    streams = [Stream(*row[:2]) for row in query(database, "covered_spans", tables, scope)]
    scope.require_kinds(each.kind for each in streams)
    if not streams and (unfinished := unfinished_loads(database)):
        raise CannotTellError(
            f"Nothing is loaded yet, so completeness cannot be checked: {describe_unfinished(unfinished)}"
        )
    if not {"trades", "coverage"} <= tables:
        raise CannotTellError(
            f"Nothing is loaded yet, so completeness cannot be checked; run `{scope.command}`."
        )
    uncovered = [name for name in scope.currencies if all(name != each.currency for each in streams)]
    uncovered += [name for name in scope.kinds if all(name != each.kind for each in streams)]
    if uncovered or not streams:
        what = " and ".join(uncovered) or "any stream"
        raise CannotTellError(
            f"No time is covered for {what}, so completeness cannot be checked; run `{scope.command}`."
        )
    return tables


def query(
    database: Database, statement: str, tables: Collection[str], scope: Scope = EVERYTHING
) -> list[tuple[Any, ...]]:
    """Rows of a statement of coverage.sql. `tables`: the raw tables that exist; others are read as empty ones."""

    def resolve(name: str) -> str:
        if name in _STATEMENTS:
            return render(_STATEMENTS[name], resolve)
        return loaded_relation(name, tables)

    return database.rows(resolve(statement), scope.parameters, CONSISTENT)
