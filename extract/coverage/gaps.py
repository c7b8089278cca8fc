"""Which trades are missing: asked of the raw tables alone, the exchange is not needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from urllib3.exceptions import HTTPError

from extract.clickhouse.errors import to_tape_error
from extract.clickhouse.settings import RAW_DATABASE, clickhouse_settings
from extract.coverage.gaps_sql import coverage_sql, gaps_sql
from extract.deribit.config import KINDS
from extract.deribit.streams import EPOCH_MS, Stream
from extract.errors import CannotTellError, UsageError
from extract.sweep.ledger import SeqRange


@dataclass(frozen=True)
class Scope:
    """Which streams a question is about; empty = all."""

    currencies: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()

    @classmethod
    def of(cls, currencies: Sequence[str] = (), kinds: Sequence[str] = ()) -> Scope:
        """As people type them. Raises UsageError for a kind that the exchange does not have."""
        for kind in kinds:
            if kind not in KINDS:
                raise UsageError(f"--kind {kind!r} is none; the exchange has {', '.join(KINDS)}.")
        return cls(tuple(name.upper() for name in currencies), tuple(kinds))

    @property
    def parameters(self) -> dict[str, Any]:
        """For the statements of `gaps_sql`."""
        return {"currencies": list(self.currencies), "kinds": list(self.kinds), "epoch_ms": EPOCH_MS}

    @property
    def command(self) -> str:
        """What loads it."""
        options = [f"--currency {name}" for name in self.currencies] + [f"--kind {k}" for k in self.kinds]
        return " ".join(["dlt pipeline run", *options])


EVERYTHING = Scope()


@dataclass(frozen=True)
class Gap:
    """Missing seqs first..last of one instrument, both included.

    `where`: `head` before the first trade that is there, `inner`, or `tail` behind the last one.
    `known_absent`: the exchange was asked by number and has it not. `rejected`: it came and could not be typed.
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


def find_gaps(client: Client, scope: Scope = EVERYTHING) -> list[Gap]:
    """What is missing of `scope`, by instrument and seq. Raises CannotTellError where nothing is covered."""
    tables = require_covered(client, scope)
    return [
        Gap(Stream(currency, kind), SeqRange(name, first, last), where, bool(absent), bool(rejected))
        for name, currency, kind, first, last, where, absent, rejected in query_rows(
            client, gaps_sql(tables), scope
        )
    ]


def covered_spans(client: Client, scope: Scope = EVERYTHING) -> list[tuple[Any, ...]]:
    """(currency, kind, covered_from, covered_to) of each span of covered time, ascending."""
    return query_rows(client, coverage_sql(), scope)


def raw_tables(client: Client) -> set[str]:
    """Names of the tables that the runs so far have made."""
    return {
        name
        for (name,) in query_rows(client, f"select name from system.tables where database = '{RAW_DATABASE}'")
    }


def require_covered(client: Client, scope: Scope = EVERYTHING) -> set[str]:
    """The raw tables. Raises CannotTellError where `scope`, or a part of it, was never loaded."""
    tables = raw_tables(client)
    if not {"trades", "coverage"} <= tables:
        raise CannotTellError(f"Nothing is loaded yet, so nothing can be proven; run `{scope.command}`.")
    streams = [row[:2] for row in covered_spans(client, scope)]
    lacking = [name for name in scope.currencies if name not in {currency for currency, _ in streams}]
    lacking += [name for name in scope.kinds if name not in {kind for _, kind in streams}]
    if lacking or not streams:
        what = " and ".join(lacking) or "anything"
        raise CannotTellError(
            f"No time is covered of {what}, so nothing can be proven; run `{scope.command}`."
        )
    return tables


def query_rows(client: Client, sql: str, scope: Scope = EVERYTHING) -> list[tuple[Any, ...]]:
    """Rows of a statement with the parameters of `scope`. Raises OutsideError or UsageError where it fails."""
    try:
        return list(client.query(sql, parameters=scope.parameters).result_rows)
    except (ClickHouseError, HTTPError, OSError) as error:
        raise to_tape_error(error, clickhouse_settings()) from error
