"""Tables of a backup: their rows, and the digests by which two databases are compared."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from extract.backup.manifest import BackedUpTable
from extract.clickhouse.client import Database, quote_identifier
from extract.clickhouse.finished import CONSISTENT, FINISHED_LOADS, LOAD_ID, LOADS
from extract.clickhouse.settings import RAW_DATABASE
from extract.clickhouse.statements import load_statements, render, with_configured_engines
from extract.push.database import RawTable

STATEMENTS = load_statements(__file__, "backup.sql")
_DAY = "toYYYYMMDD(timestamp)"
_CREATE = re.compile(r"^CREATE TABLE \S+?\.(?:`(?:[^`\\]|\\.)*`|\S+) ")
_REPLICATED = re.compile(r"\b(?:Replicated|Shared)(\w*MergeTree)(?:\('[^']*', '[^']*'(?:, )?([^)]*)\))?")


class Digest(NamedTuple):
    """Digest of a multiset of rows: their number, and the sums of the hashes of their keys and contents, modulo 2^64."""

    rows: int = 0
    keys: int = 0
    content: int = 0


Digests = dict[int, Digest]
"""Digest of each day (YYYYMMDD), or of day 0, which is all of a table without months."""


class Part(NamedTuple):
    """Rows of one file: those of some days, ends included."""

    label: str
    first_day: int
    last_day: int
    digest: Digest


@dataclass(frozen=True)
class TableReader:
    """Reads rows of one table: those up to a load package, or all of them if `newest_load` is None."""

    database: Database
    table: BackedUpTable
    newest_load: str | None = None

    @property
    def raw(self) -> RawTable:
        return RawTable(self.table.name, tuple(self.table.columns))

    def digests(self, part: Part | None = None) -> Digests:
        """Digests by day, of the days of a part, or of all rows."""
        values = {
            "day": _DAY if self.table.has_months else "0",
            "key_hash": self.raw.key_hash,
            "content_hash": self.raw.content_hash,
            "rows": self._rows,
            "in_range": self._in_days(part) if part else "1",
        }
        sql = render(STATEMENTS["digests"], values.__getitem__)
        rows = self.database.rows(sql, self._parameters, CONSISTENT)
        return {int(day): Digest(int(count), int(keys), int(content)) for day, count, keys, content in rows}

    def digest(self, part: Part) -> Digest:
        """Digest of the rows that a part has now."""
        return add_up(self.digests(part).values())

    def select(self, part: Part) -> tuple[str, dict[str, str]]:
        """A statement that selects the rows of a part, and its parameters."""
        columns = ", ".join(self.raw.column_names)
        return f"select {columns} from {self._rows} where {self._in_days(part)}", self._parameters

    def delete(self, part: Part) -> None:
        """Delete the rows of a part."""
        sql = f"delete from {self.raw.identifier} where {self._in_days(part)}"
        self.database.command(sql, None, {"lightweight_deletes_sync": 1})

    @property
    def _rows(self) -> str:
        if self.newest_load is None:
            return self.raw.identifier
        if self.table.name == LOADS:
            return render(STATEMENTS["load_packages"], self._relation)
        if LOAD_ID in dict(self.table.columns):
            return render(STATEMENTS["rows_of_load_packages"], self._relation)
        return self.raw.identifier

    def _relation(self, name: str) -> str:
        return FINISHED_LOADS if name == "finished_loads" else self.raw.identifier

    @property
    def _parameters(self) -> dict[str, str]:
        return {} if self.newest_load is None else {"newest_load": self.newest_load}

    def _in_days(self, part: Part) -> str:
        """Predicate of the rows of a part."""
        if not self.table.has_months:
            return "1"
        month = f"toYYYYMM(timestamp) = {part.first_day // 100}"
        return f"{month} and {_DAY} between {part.first_day} and {part.last_day}"


def read_tables(database: Database) -> dict[str, BackedUpTable]:
    """The tables of deribit_raw, by name."""
    columns: dict[str, list[tuple[str, str]]] = {}
    for table, name, type_ in database.rows(STATEMENTS["columns"], None, CONSISTENT):
        columns.setdefault(table, []).append((name, type_))
    return {
        name: BackedUpTable(name, columns[name], _portable(definition), bool(has_months))
        for name, has_months, definition in database.rows(STATEMENTS["tables"], None, CONSISTENT)
    }


def newest_load(database: Database) -> str | None:
    """Id of the newest finished load package; None if there is none."""
    sql = render(STATEMENTS["newest_load"], lambda _: FINISHED_LOADS)
    return database.value(sql, None, CONSISTENT) or None


def _portable(definition: str) -> str:
    """A CREATE statement without the name, with the engine that it has on a server that is not replicated."""
    unnamed = _CREATE.sub("", definition, count=1)
    return _REPLICATED.sub(lambda engine: f"{engine[1]}({engine[2]})" if engine[2] else engine[1], unnamed)


def create_sql(table: BackedUpTable) -> str:
    """A statement that creates a table as it was."""
    definition = with_configured_engines(table.definition.replace("ENGINE = ", "engine = ", 1))
    return f"create table if not exists {RAW_DATABASE}.{quote_identifier(table.name)} {definition}"


def divide(table: BackedUpTable, digests: Mapping[int, Digest], part_rows: int) -> Iterator[Part]:
    """Divide a table into months, and months of more than `part_rows` rows into days."""
    if not table.has_months:
        if digests:
            yield Part("all", 0, 0, digests[0])
        return
    months: dict[int, list[int]] = {}
    for day in sorted(digests):
        months.setdefault(day // 100, []).append(day)
    for month, days in months.items():
        total = add_up(digests[day] for day in days)
        if total.rows <= part_rows:
            yield Part(f"{month // 100}-{month % 100:02}", month * 100 + 1, month * 100 + 31, total)
            continue
        for day in days:
            label = f"{month // 100}-{month % 100:02}-{day % 100:02}"
            yield Part(label, day, day, digests[day])


def add_up(digests: Iterable[Digest]) -> Digest:
    """The digest of all rows."""
    rows = keys = content = 0
    for digest in digests:
        rows, keys, content = rows + digest.rows, keys + digest.keys, content + digest.content
    return Digest(rows, keys % 2**64, content % 2**64)
