"""Find missing trades in the raw tables, without a request to the exchange."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from extract.clickhouse.client import Database
from extract.clickhouse.settings import RAW_DATABASE
from extract.clickhouse.statements import load_statements, render
from extract.deribit.config import KINDS
from extract.deribit.schema import MAX_SEQ
from extract.deribit.streams import EPOCH_MS, Stream
from extract.errors import CannotTellError, UsageError
from extract.source.tables import RAW_TABLES
from extract.sweep.ledger import SeqRange

_STATEMENTS = load_statements(__file__, "coverage.sql")


@dataclass(frozen=True)
class Scope:
    """Streams to consider; empty = all."""

    currencies: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()

    @classmethod
    def of(cls, currencies: Sequence[str] = (), kinds: Sequence[str] = ()) -> Scope:
        """Parse command-line values. Raises UsageError for a kind that the exchange does not have."""
        for kind in kinds:
            if kind not in KINDS:
                raise UsageError(f"--kind {kind!r} does not exist; the exchange has {', '.join(KINDS)}.")
        return cls(tuple(name.upper() for name in currencies), tuple(kinds))

    def includes(self, stream: Stream) -> bool:
        return (not self.currencies or stream.currency in self.currencies) and (
            not self.kinds or stream.kind in self.kinds
        )

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of the statements in coverage.sql."""
        return {
            "currencies": list(self.currencies),
            "kinds": list(self.kinds),
            "epoch_ms": EPOCH_MS,
            "max_seq": MAX_SEQ,
        }

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
    `known_absent`: requested by number, and the exchange does not have it. `rejected`: received, but not decodable.
    """

    stream: Stream
    range: SeqRange
    where: str
    known_absent: bool
    rejected: bool

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
        Gap(Stream(currency, kind), SeqRange(name, first, last), where, bool(absent), bool(rejected))
        for name, currency, kind, first, last, where, absent, rejected in query(
            database, "gaps", scope, tables
        )
    ]


def require_covered(database: Database, scope: Scope = EVERYTHING) -> set[str]:
    """Names of the raw tables. Raises CannotTellError where `scope`, or a part of it, was never loaded."""
    sql = f"select name from system.tables where database = '{RAW_DATABASE}'"
    tables = {name for (name,) in database.rows(sql)}
    if not {"trades", "coverage"} <= tables:
        raise CannotTellError(
            f"Nothing is loaded yet, so completeness cannot be checked; run `{scope.command}`."
        )
    streams = [Stream(*row[:2]) for row in query(database, "covered_spans", scope)]
    uncovered = [name for name in scope.currencies if all(name != each.currency for each in streams)]
    uncovered += [name for name in scope.kinds if all(name != each.kind for each in streams)]
    if uncovered or not streams:
        what = " and ".join(uncovered) or "any stream"
        raise CannotTellError(
            f"No time is covered for {what}, so completeness cannot be checked; run `{scope.command}`."
        )
    return tables


def query(
    database: Database, statement: str, scope: Scope = EVERYTHING, tables: Collection[str] = ()
) -> list[tuple[Any, ...]]:
    """Rows of a statement of coverage.sql. `tables`: those that exist besides trades and coverage; others are empty."""

    def resolve(name: str) -> str:
        if name in _STATEMENTS:
            return render(_STATEMENTS[name], resolve)
        is_missing = name in RAW_TABLES.keys() - {"trades", "coverage", *tables}
        return RAW_TABLES[name].empty_relation if is_missing else f"{RAW_DATABASE}.{name}"

    return database.rows(resolve(statement), scope.parameters)
