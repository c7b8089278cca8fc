"""What the measurements of all checks share: their result, their statements, and the tables that exist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from extract.clickhouse.client import Database
from extract.clickhouse.settings import MART_DATABASE, RAW_DATABASE, RUNS_DATABASE
from extract.clickhouse.statements import load_statements, render
from extract.source.tables import loaded_relation

_STATEMENTS = load_statements(__file__, "checks.sql")


class Measurement(NamedTuple):
    """Value of a check in the unit of its limits. Without a value, or if `is_broken`, the check alarms.

    `is_warning`: the check warns at least.
    """

    value: float | None
    text: str
    is_broken: bool = False
    is_warning: bool = False


@dataclass(frozen=True)
class Inventory:
    """A database, and which tables it has: names by database, without the database."""

    database: Database
    raw: frozenset[str]
    marts: frozenset[str]
    runs: frozenset[str]

    @classmethod
    def read(cls, database: Database) -> Inventory:
        """List the tables in one query. Raises the errors of `Database`."""
        names: dict[str, set[str]] = {}
        for name, table in database.rows(_STATEMENTS["tables"]):
            names.setdefault(name, set()).add(table)
        raw, marts, runs = (
            frozenset(names.get(each, ())) for each in (RAW_DATABASE, MART_DATABASE, RUNS_DATABASE)
        )
        return cls(database, raw, marts, runs)

    def rows(
        self, statement: str, parameters: dict[str, Any] | None = None, **relations: str
    ) -> list[tuple[Any, ...]]:
        """Rows of a statement of checks.sql.

        Its placeholders are raw tables, of which those that do not exist are read as empty ones, and `relations`.
        """

        def resolve(name: str) -> str:
            return relations[name] if name in relations else loaded_relation(name, self.raw)

        return self.database.rows(render(_STATEMENTS[statement], resolve), parameters)


def seconds_since(at: datetime) -> float:
    """Whole seconds from `at`, in UTC, to now; 0 for a time to come."""
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, round((datetime.now(UTC) - at).total_seconds()))


def enumerate_names(names: Mapping[str, object] | list[str], most: int = 3) -> str:
    """The first names, separated by commas: `a, b, c, …`."""
    return ", ".join(list(names)[:most]) + (", …" if len(names) > most else "")
