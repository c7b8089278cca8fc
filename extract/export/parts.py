"""Parts of an export: which files there are, what each contains, and the statements that read them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from extract.clickhouse.client import Database, quote_identifier
from extract.clickhouse.finished import CONSISTENT
from extract.clickhouse.statements import load_statements, render
from extract.errors import UsageError
from extract.export.tables import ExportTable
from extract.times import END_MS

STATEMENTS = load_statements(__file__, "export.sql")
FORMATS = {"parquet": "Parquet", "csv": "CSVWithNames", "tardis": "CSVWithNames"}
"""Formats of an export, and ClickHouse's of its files."""
DATA = {"parquet": "data.parquet", "csv": "data.csv.gz"}
TARDIS_FOLDERS = (
    ("date", "toDate(timestamp)"),
    (
        "symbol",
        "multiIf(kind in ('future', 'spot'), instrument_name, endsWith(kind, '_combo'), 'COMBOS', 'OPTIONS')",
    ),
)
"""One file per day and symbol. Options and combos have a symbol together, as at tardis.dev."""
EXCHANGE = "deribit"
DEFAULT_FOLDER = "__HIVE_DEFAULT_PARTITION__"
"""Name of the folder of null, as Hive, DuckDB, polars and Spark read it."""

READ_SETTINGS: dict[str, Any] = {
    **CONSISTENT,
    # The month is part of the key, so no row has versions in two partitions.
    "do_not_merge_across_partitions_select_final": 1,
    "max_threads": 2,
    "max_memory_usage": 2 << 30,
    "max_bytes_before_external_sort": 256 << 20,
    "max_bytes_before_external_group_by": 512 << 20,
    "max_execution_time": 0,
    "output_format_parquet_compression_method": "zstd",
    "output_format_parquet_row_group_size": 1 << 17,
    "output_format_parquet_string_as_string": 1,
    "output_format_parquet_datetime_as_uint32": 0,
    "output_format_parquet_write_page_index": 1,
    "date_time_output_format": "iso",
    "format_csv_null_representation": "",
    "output_format_csv_serialize_tuple_into_separate_columns": 0,
    "final": 0,
}
"""Settings of the statements that read rows: bounded memory, and files that do not depend on the user's profile."""


@dataclass(frozen=True)
class Part:
    """The rows of one file: a month of a table in one folder of each level. `rows` and `fingerprint` as of planning."""

    table: ExportTable
    month: int | None
    folders: tuple[str, ...]
    rows: int
    leading: tuple[str, str]
    fingerprint: str
    path: str
    partition: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Filter:
    """Filters of an export: currencies and kinds, empty for all, and a time in ms since 1970, `until_ms` excluded."""

    currencies: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    since_ms: int = 0
    until_ms: int = END_MS

    @property
    def is_empty(self) -> bool:
        return self == Filter()


class Planner:
    """Plans the parts of tables, from counts and digests that the server computes."""

    def __init__(self, database: Database, format: str, filters: Filter, marts: Collection[str]) -> None:
        self.database = database
        self.format = format
        self.filters = filters
        self.marts = marts
        self._columns: dict[str, dict[str, str]] = {}

    def columns(self, table: ExportTable) -> dict[str, str]:
        """ClickHouse types of the columns, by name."""
        if table.source not in self._columns:
            rows = self.database.rows(STATEMENTS["columns"], {"table": table.source})
            self._columns[table.source] = dict(rows)
        return self._columns[table.source]

    def applies(self, table: ExportTable) -> bool:
        """Whether the filters leave any rows of the table. Raises UsageError for a raw table, which has no filters."""
        if table.is_raw and not self.filters.is_empty:
            raise UsageError(
                "Raw tables are exported as a whole; leave out the filters of currency, kind and time."
            )
        return not (self.filters.kinds and table.kinds and not table.kinds & set(self.filters.kinds))

    def months(self, table: ExportTable) -> list[int] | None:
        """Months in which a table may have rows, ascending; None for one that is planned by a single statement."""
        if not table.stored:
            return None
        sql = render(STATEMENTS["stored_months"], {"relation": table.stored}.__getitem__)
        stored = set(self.database.column(sql, None, CONSISTENT))
        # A week that begins in the month before contains days of a stored month.
        months = stored | {month_before(month) for month in stored}
        return sorted(month for month in months if _overlaps(month, self.filters))

    def dropped_months(self, table: ExportTable) -> set[int]:
        """Months that `tape retention` dropped from a table."""
        if not table.stored or "retention_drops" not in self.marts:
            return set()
        return set(self.database.column(STATEMENTS["dropped_months"], {"table": table.stored}))

    def parts(self, table: ExportTable, months: Sequence[int] | None) -> Iterator[Part]:
        """Parts of these months, or of the whole table, by month and folders."""
        for month in [None] if months is None else months:
            yield from self._query(table, month)

    def again(self, part: Part) -> Part | None:
        """The same part as it is now; None where it has no rows any more."""
        month = part.month if part.table.stored else None
        return next((each for each in self._query(part.table, month) if each.path == part.path), None)

    def _query(self, table: ExportTable, month: int | None) -> Iterator[Part]:
        condition, parameters = self._condition(table, month)
        columns = self.columns(table)
        version = table.version or tuple(map(quote_identifier, columns))
        sql = self._render(
            "parts",
            table,
            condition,
            month=f"toYYYYMM({table.time})" if table.time else "0",
            keys=", ".join(f"toString({expression})" for _, expression in self._folders(table)),
            leading=table.sort[0],
            version=", ".join(version),
        )
        for of_month, folders, rows, first, last, digest in self.database.rows(
            sql, parameters, READ_SETTINGS
        ):
            names = [name for name, _ in self._folders(table)]
            partition = dict(zip(names, folders, strict=True))
            if table.time and self.format != "tardis":
                partition["month"] = f"{of_month // 100}-{of_month % 100:02}"
            # A changed definition of the table is a change of every file.
            fingerprint = f"{digest}/{rows}/{_hash_text(repr(sorted(columns.items())))}"
            yield Part(
                table,
                of_month if table.time else None,
                tuple(folders),
                rows,
                (first, last),
                fingerprint,
                self._path(table, partition),
                partition,
            )

    def read(self, part: Part) -> tuple[str, dict[str, Any]]:
        """The statement that reads the rows of a part, and its parameters."""
        table = part.table
        condition, parameters = self._condition(table, part.month)
        if part.folders:
            for at, (_, expression) in enumerate(self._folders(table)):
                condition += f" and toString({expression}) = {{folder{at}:String}}"
                parameters[f"folder{at}"] = part.folders[at]
            # The sort key begins with the leading column, so that other instruments are not read.
            condition += f" and {table.sort[0]} between {{first_value:String}} and {{last_value:String}}"
            parameters |= {"first_value": part.leading[0], "last_value": part.leading[1]}
        statement, sort = "rows", ", ".join(map(quote_identifier, table.sort))
        if self.format == "tardis":
            statement, sort = "tardis_rows", f"{table.time}, {sort}"
            parameters["exchange"] = EXCHANGE
        columns = ", ".join(map(quote_identifier, self.columns(table)))
        return self._render(statement, table, condition, columns=columns, sort=sort), parameters

    def _render(self, statement: str, table: ExportTable, condition: str, **values: str) -> str:
        relation = table.relation or table.source
        names = {"relation": relation, "condition": condition, **values}
        return render(STATEMENTS[statement], names.__getitem__)

    def _condition(self, table: ExportTable, month: int | None) -> tuple[str, dict[str, Any]]:
        terms, parameters = ["1"], dict[str, Any]()
        from_ms, to_ms = self.filters.since_ms, self.filters.until_ms
        if month:
            first_ms, end_ms = month_bounds_ms(month)
            from_ms, to_ms = max(from_ms, first_ms), min(to_ms, end_ms)
        # Without a bound there is no term: DateTime ends in 2106.
        if table.time and from_ms:
            terms.append(f"{table.time} >= fromUnixTimestamp64Milli({{from_ms:Int64}}, 'UTC')")
        if table.time and to_ms < END_MS:
            terms.append(f"{table.time} < fromUnixTimestamp64Milli({{to_ms:Int64}}, 'UTC')")
        parameters |= {"from_ms": from_ms, "to_ms": to_ms}
        if self.filters.currencies and table.currency:
            terms.append(table.currency)
            parameters["currencies"] = list(self.filters.currencies)
        if self.filters.kinds and not table.kinds and not table.is_raw:
            terms.append("kind in {kinds:Array(String)}")
            parameters["kinds"] = list(self.filters.kinds)
        return " and ".join(terms), parameters

    def _folders(self, table: ExportTable) -> tuple[tuple[str, str], ...]:
        return TARDIS_FOLDERS if self.format == "tardis" else table.folders

    def _path(self, table: ExportTable, partition: Mapping[str, str]) -> str:
        if self.format == "tardis":
            date, symbol = partition["date"], quote(partition["symbol"], safe="")
            return f"trades/{date[:7]}/deribit_trades_{date}_{symbol}.csv.gz"
        folders = [f"{name}={quote(value, safe='') or DEFAULT_FOLDER}" for name, value in partition.items()]
        return "/".join([table.name, *folders, DATA[self.format]])


def month_bounds_ms(month: int) -> tuple[int, int]:
    """First millisecond of a month YYYYMM, and of the next one, since 1970 UTC."""
    year, number = divmod(month, 100)
    ends = ((year, number), (year + number // 12, number % 12 + 1))
    first_ms, end_ms = (round(datetime(*end, 1, tzinfo=UTC).timestamp() * 1000) for end in ends)
    return first_ms, end_ms


def month_before(month: int) -> int:
    """The month YYYYMM before another one."""
    return month - 89 if month % 100 == 1 else month - 1


def _overlaps(month: int, filters: Filter) -> bool:
    first_ms, end_ms = month_bounds_ms(month)
    return first_ms < filters.until_ms and filters.since_ms < end_ms


def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
