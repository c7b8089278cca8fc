"""Tables that can be exported: where their rows come from, their order, their folders and which filters they have."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from extract.clickhouse.finished import FINISHED_LOADS, LOAD_ID, LOADS, finished_rows
from extract.clickhouse.settings import MART_DATABASE, RAW_DATABASE
from extract.errors import UsageError
from extract.source.tables import RAW_TABLES

LEVELS = {"1m": "1m", "15m": "1m", "1h": "1h", "4h": "1h", "1d": "1h", "1w": "1h", "1mo": "1h"}
"""Levels of candles, and the stored level that each is computed from."""
RAW = "raw"
"""Name of a group of tables: all raw tables, as a backup needs them."""
STREAM = (("kind", "kind"), ("underlying", "ifNull(underlying, '')"))
"""Folders of tables with a row per trade or candle, and the expressions that name them."""


@dataclass(frozen=True)
class ExportTable:
    """One table of an export.

    `source`: table or view, with its database; `relation`: what is read, if not all of it. `sort`: columns by which the
    rows of a file are ordered, a prefix of the sort key of the stored table, so that the server need not sort. `time`:
    column that assigns a row to a month; a table without one is one file. `stored`: table whose partitions are the
    months. `folders`: names and expressions of the folders above the months. `version`: columns that identify the content
    of a row, () for all. `currency`: predicate of the currencies of a filter; `kinds`: kinds of a table that has no
    column for them.
    """

    name: str
    source: str
    sort: tuple[str, ...]
    time: str | None = None
    stored: str | None = None
    folders: tuple[tuple[str, str], ...] = ()
    version: tuple[str, ...] = ()
    currency: str | None = None
    kinds: frozenset[str] | None = None
    relation: str = ""

    @property
    def is_raw(self) -> bool:
        return self.source.startswith(f"{RAW_DATABASE}.")


_OF_INSTRUMENT = "hasAny(splitByRegexp('[-_]', instrument_name), {currencies:Array(String)})"
_OF_CURRENCY = "currency in {currencies:Array(String)}"
_TRADED = f"""instrument_name in (
    select instrument_name from {MART_DATABASE}.instrument_ends where currency in {{currencies:Array(String)}}
)"""

TRADES = ExportTable(
    "trades",
    f"{MART_DATABASE}.trades",
    ("instrument_name", "trade_seq"),
    "timestamp",
    stored=f"{MART_DATABASE}.trade_versions",
    folders=STREAM,
    version=("instrument_name", "trade_seq", "loaded_at"),
    currency=_OF_CURRENCY,
)
CANDLES = tuple(
    ExportTable(
        f"candles_{level}",
        f"{MART_DATABASE}.ohlcv_{level}",
        ("instrument_name", "bucket_at"),
        "bucket_at",
        stored=f"{MART_DATABASE}.ohlcv_{stored}_versions",
        folders=STREAM,
        currency=_TRADED,
    )
    for level, stored in LEVELS.items()
)


def _series(
    name: str, sort: tuple[str, ...], time: str | None, currency: str, kinds: Sequence[str] = ()
) -> ExportTable:
    return ExportTable(
        name, f"{MART_DATABASE}.{name}", sort, time, currency=currency, kinds=frozenset(kinds) or None
    )


SERIES = (
    _series("funding_1h", ("instrument_name", "timestamp"), "timestamp", _OF_INSTRUMENT, ("future",)),
    _series(
        "delivery_prices",
        ("index_name", "date"),
        "date",
        "hasAny(splitByRegexp('[-_]', upper(index_name)), {currencies:Array(String)})",
        ("option", "future"),
    ),
    _series(
        "settlements",
        ("currency", "type", "timestamp", "instrument_name"),
        "timestamp",
        _OF_CURRENCY,
        ("option", "future"),
    ),
    _series("volatility_index_1h", ("currency", "timestamp"), "timestamp", _OF_CURRENCY, ("option",)),
    _series("open_interest_1d", ("instrument_name", "day"), "day", _OF_INSTRUMENT, ("option", "future")),
)
INSTRUMENTS = ExportTable(
    "instruments", f"{MART_DATABASE}.instruments", ("instrument_name",), currency=_OF_INSTRUMENT
)
MARTS = (TRADES, *CANDLES, *SERIES, INSTRUMENTS)
"""Tables of an export that names none."""


def choose_tables(names: Sequence[str], existing: Collection[str]) -> list[ExportTable]:
    """The tables of these names, all marts by default; `raw` names all raw tables of `existing`.

    Raises UsageError for a name that does not exist.
    """
    known = {table.name: table for table in MARTS}
    raw = {table.name: table for table in raw_tables(existing)}
    chosen: dict[str, ExportTable] = {}
    for name in names or known:
        if name == RAW:
            chosen |= raw
        elif table := known.get(name) or raw.get(name):
            chosen[name] = table
        else:
            raise UsageError(f"--tables {name!r} does not exist; choose of {', '.join(known)} or {RAW}.")
    return list(chosen.values())


def raw_tables(existing: Collection[str]) -> list[ExportTable]:
    """The raw tables of a database that has the tables `existing`, reduced to finished load packages."""
    return [_raw_table(name) for name in sorted(existing) if name in RAW_TABLES or name in _DLT_SORTS]


_DLT_SORTS = {LOADS: ("load_id",), "_dlt_pipeline_state": (LOAD_ID,), "_dlt_version": ("version",)}


def _raw_table(name: str) -> ExportTable:
    definition = RAW_TABLES.get(name)
    is_loaded = LOAD_ID in definition.columns if definition else name == "_dlt_pipeline_state"
    relation = FINISHED_LOADS if name == LOADS else finished_rows(name) if is_loaded else ""
    is_monthly = bool(definition and definition.partition)
    return ExportTable(
        f"{RAW}_{name.removeprefix('_')}",
        f"{RAW_DATABASE}.{name}",
        (definition.sort if definition else _DLT_SORTS[name]) or (LOAD_ID, "_dlt_id"),
        time="timestamp" if is_monthly else None,
        stored=f"{RAW_DATABASE}.{name}" if is_monthly else None,
        relation=relation,
    )
