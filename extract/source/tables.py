"""Registry of the raw tables: columns, keys, who creates each and which are pushed.

The resources' column hints, the `empty` source, SQL that creates a table and SQL that replaces a missing one are all
made from it. It imports neither dlt nor the database driver, so that SQL-only commands start quickly.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from extract.clickhouse.finished import FINISHED_LOADS, LOAD_ID, LOADS, finished_rows
from extract.clickhouse.settings import RAW_DATABASE
from extract.clickhouse.statements import with_configured_engines
from extract.deribit.instrument_schema import COLUMNS as INSTRUMENT_COLUMNS
from extract.deribit.schema import ARROW_SCHEMA
from extract.deribit.series.schema import ALL_SERIES, BOOK_SUMMARIES

TIMESTAMP = "DateTime64(3, 'UTC')"
_ARROW_TYPES = {
    pa.int64(): "Int64",
    pa.float64(): "Float64",
    pa.string(): "String",
    pa.timestamp("ms", tz="UTC"): TIMESTAMP,
    pa.date32(): "Date",
}
_HINTS: dict[str, dict[str, Any]] = {
    "Int64": {"data_type": "bigint"},
    "Float64": {"data_type": "double"},
    "String": {"data_type": "text"},
    "Bool": {"data_type": "bool"},
    "Date": {"data_type": "date"},
    TIMESTAMP: {"data_type": "timestamp", "precision": 3},
}


@dataclass(frozen=True)
class TableDefinition:
    """One table of `deribit_raw`. `columns` maps names to ClickHouse types, in order.

    `created_by`: `run` for a table that the first run creates; the others appear with their first row, when a command
    first needs them. `is_pushed`: whether `tape push` copies it.
    """

    name: str
    columns: Mapping[str, str]
    created_by: Literal["run", "series", "repair", "tails", "push", "retention"] = "run"
    is_pushed: bool = True
    sort: tuple[str, ...] = ()
    partition: str | None = None
    codecs: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_optional(self) -> bool:
        """Whether a loaded database may lack the table."""
        return self.created_by != "run"

    @property
    def hints(self) -> dict[str, Any]:
        """dlt column hints, without the columns that dlt adds."""
        return {
            name: {**_HINTS[_without_null(type_)], "nullable": _without_null(type_) != type_}
            for name, type_ in self.columns.items()
            if not name.startswith("_dlt_")
        }

    def create_sql(self, name: str | None = None) -> str:
        """A statement that creates the table, as `name` (with its database), unless it exists."""
        columns = [
            f"`{column}` {type_}{f' codec({self.codecs[column]})' if column in self.codecs else ''}"
            for column, type_ in self.columns.items()
        ]
        partition = f" partition by {self.partition}" if self.partition else ""
        return with_configured_engines(
            f"create table if not exists {name or f'{RAW_DATABASE}.{self.name}'} ({', '.join(columns)}) "
            f"engine = MergeTree{partition} order by ({', '.join(self.sort) or 'tuple()'})"
        )

    @property
    def loaded_relation(self) -> str:
        """The rows that readers may use: those of finished load packages, if the table is filled by load packages."""
        return finished_rows(self.name) if LOAD_ID in self.columns else f"{RAW_DATABASE}.{self.name}"

    @property
    def empty_relation(self) -> str:
        """A subquery without rows that has the table's columns, for a database that lacks the table."""
        columns = [
            "defaultValueOfTypeName('{}') as {}".format(type_.replace("'", "\\'"), name)
            for name, type_ in self.columns.items()
        ]
        return f"(select {', '.join(columns)} where 0)"


def _without_null(type_: str) -> str:
    return type_.removeprefix("Nullable(")[:-1] if type_.startswith("Nullable(") else type_


def _arrow_columns(schema: pa.Schema) -> dict[str, str]:
    types = {column.name: _ARROW_TYPES[column.type] for column in schema}
    return {name: f"Nullable({t})" if schema.field(name).nullable else t for name, t in types.items()}


_STREAM = {"currency": "String", "kind": "String"}
_SEQ_RANGE = {"instrument_name": "String", "first_seq": "Int64", "last_seq": "Int64"}
_LOAD_ID = {"_dlt_load_id": "String"}
_ROW_ID = {**_LOAD_ID, "_dlt_id": "String"}
"""Columns that dlt adds to rows; Arrow tables get the load id only."""

TRADES = TableDefinition(
    "trades",
    {**_arrow_columns(ARROW_SCHEMA), **_LOAD_ID},
    # Reading the newest load packages touches only their rows, and within a package neighbours compress best.
    sort=("_dlt_load_id", "instrument_name", "trade_seq"),
    partition="toYYYYMM(timestamp)",
    codecs={"timestamp": "Delta, ZSTD", "trade_seq": "Delta, ZSTD"},
)
REJECTED_TRADES = TableDefinition(
    "rejected_trades", {**_STREAM, "reason": "String", "raw": "String", **_ROW_ID}
)
"""Records that could not be typed: the reason, and their JSON text."""
ABSENT_TRADES = TableDefinition("absent_trades", {**_SEQ_RANGE, **_STREAM, "found_at": TIMESTAMP, **_ROW_ID})
"""Ranges of trade_seq, ends included, that the exchange did not have when they were requested by number.

Each request adds a row: a range is requested again later, because the exchange may fill it in.
"""
RECOVERED_TRADES = TableDefinition(
    "recovered_trades",
    {**_SEQ_RANGE, **_STREAM, "found_at": TIMESTAMP, **_ROW_ID},
    created_by="repair",
)
"""Ranges of trade_seq, ends included, that were absent and that the exchange has sent since."""
COVERAGE = TableDefinition(
    "coverage", {**_STREAM, "covered_from": TIMESTAMP, "covered_to": TIMESTAMP, **_ROW_ID}
)
"""Spans of time, ends included, whose trades are loaded: the source's state, for readers of SQL.

Each load package adds the spans that it changed. A later row replaces an earlier one with the same `covered_from`, and
spans may overlap after one has grown into another.
"""
INSTRUMENTS = TableDefinition(
    "instruments", {**INSTRUMENT_COLUMNS, **_ROW_ID}, sort=("instrument_name", "_dlt_load_id")
)
INSTRUMENT_TAILS = TableDefinition(
    "instrument_tails",
    {"instrument_name": "String", "last_seq": "Int64", **_STREAM, "found_at": TIMESTAMP, **_ROW_ID},
    created_by="tails",
)
"""The last trade_seq of expired instruments; 0 for an instrument that never traded."""
SERIES_TABLES = {
    series.name: TableDefinition(
        series.name,
        {**_arrow_columns(series.schema), **_ROW_ID},
        created_by="series",
        sort=tuple(dict.fromkeys([*series.schema.names[:1], *series.key])),
        # Recorded forward only, and large: retention drops months of it.
        partition="toYYYYMM(timestamp)" if series is BOOK_SUMMARIES else None,
    )
    for series in ALL_SERIES
}
"""Series besides trades, by name. Of rows with the same sort key, the one of the latest load package counts."""
_SERIES_KEY = {"series": "String", "series_key": "String"}
SERIES_COVERAGE = TableDefinition(
    "series_coverage",
    {
        **_SERIES_KEY,
        "covered_from": TIMESTAMP,
        "covered_to": TIMESTAMP,
        "loaded_rows": "Int64",
        "missing_rows": "Int64",
        "disagreement": "Nullable(String)",
        "checked_at": TIMESTAMP,
        **_ROW_ID,
    },
    created_by="series",
    sort=("series", "series_key", "_dlt_load_id"),
)
"""From when to when each key of a series is loaded; the latest load package of a key counts, with its `series_gaps`.

`disagreement` is a sentence about a sum that differs from the exchange's own.
"""
SERIES_GAPS = TableDefinition(
    "series_gaps",
    {
        **_SERIES_KEY,
        "first_at": TIMESTAMP,
        "last_at": TIMESTAMP,
        "missing_rows": "Int64",
        "detail": "String",
        **_ROW_ID,
    },
    created_by="series",
    sort=("series", "series_key", "_dlt_load_id"),
)
"""Rows that a series should have, and that the exchange did not send; requested again once a day."""
REJECTED_RECORDS = TableDefinition(
    "rejected_records",
    {**_SERIES_KEY, "reason": "String", "raw": "String", **_ROW_ID},
    created_by="series",
)
"""Records of series that could not be typed: the reason, and their JSON text."""
PUSHES = TableDefinition(
    "pushes",
    {"target": "String", "partition_month": "String", "trades": "UInt64", "proven_at": TIMESTAMP},
    created_by="push",
    is_pushed=False,
    sort=("target", "partition_month", "proven_at"),
)
"""When each month was proven to be equal in another database; in a push's source only."""
DROPPED_TRADES = TableDefinition(
    "dropped_trades",
    {"instrument_name": "String", **_STREAM, "first_seq": "Int64", "last_seq": "Int64"},
    created_by="retention",
    is_pushed=False,
    sort=("instrument_name", "first_seq"),
)
"""Ranges of trade_seq, ends included, that retention dropped from this database."""

RAW_TABLES = {
    table.name: table
    for table in (
        TRADES,
        REJECTED_TRADES,
        ABSENT_TRADES,
        RECOVERED_TRADES,
        COVERAGE,
        INSTRUMENTS,
        INSTRUMENT_TAILS,
        *SERIES_TABLES.values(),
        SERIES_COVERAGE,
        SERIES_GAPS,
        REJECTED_RECORDS,
        PUSHES,
        DROPPED_TRADES,
    )
}
"""Every table of `deribit_raw` except dlt's own, by name."""


def loaded_relation(name: str, existing: Collection[str]) -> str:
    """What a statement reads for its placeholder `<name>`: a raw table, or `finished_loads`.

    `existing`: names of the tables of `deribit_raw`. A table that does not exist is read as an empty one, and without
    the list of load packages nothing is loaded.
    """
    if name == "finished_loads":
        return FINISHED_LOADS
    table = RAW_TABLES[name]
    needed = {name, LOADS} if LOAD_ID in table.columns else {name}
    return table.loaded_relation if needed <= set(existing) else table.empty_relation
