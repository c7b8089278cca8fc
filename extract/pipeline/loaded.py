"""Queries for instruments and sequence numbers that are loaded, so that the state does not have to store them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any

import pyarrow as pa

from extract.clickhouse.client import Database
from extract.clickhouse.finished import LOADS, recent_trades
from extract.clickhouse.settings import RAW_DATABASE
from extract.clickhouse.statements import load_statements, render
from extract.deribit.arrow import content_digests, trade_keys
from extract.deribit.instrument_schema import COLUMNS
from extract.deribit.schema import PAGE_SCHEMA
from extract.deribit.streams import Stream, TradeKey
from extract.source.rejected import REJECTED_EXPRESSIONS
from extract.source.tables import DROPPED_TRADES, TRADES, loaded_relation
from extract.sweep.state import Span

LOOK_BACK_MS = (3_600_000, 86_400_000, 10**14)
"""Time before the end of a span that is searched first, second and last. Most instruments have traded in the last hour."""
CLOCK_MARGIN_S = 600
"""How far the clocks of the exchange and of this machine may differ."""

_TRADE_COLUMNS = [
    "toUnixTimestamp64Milli(timestamp)" if name == "timestamp" else name for name in PAGE_SCHEMA.names
]
_STATEMENTS = {**REJECTED_EXPRESSIONS, **load_statements(__file__, "loaded.sql")}
_CONSISTENT = {"select_sequential_consistency": 1}


class LoadedTables:
    """The raw tables of a database, for `loaded.sql`. `names` are those that exist when the session begins."""

    def __init__(self, database: Database, names: Collection[str]) -> None:
        self._database = database
        self.names = names

    def rows(self, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """Rows of a statement."""
        if LOADS not in self.names:  # the first run creates the tables
            sql = f"select name from system.tables where database = '{RAW_DATABASE}'"
            self.names = set(self._database.column(sql))

        def resolve(name: str) -> str:
            if name == "trade_columns":
                return ", ".join(_TRADE_COLUMNS)
            if name == "instrument_columns":
                return ", ".join(COLUMNS)
            if name in _STATEMENTS:
                return render(_STATEMENTS[name], resolve)
            if name == "recent_trades":
                return recent_trades() if {LOADS, TRADES.name} <= set(self.names) else TRADES.empty_relation
            return loaded_relation(name, self.names)

        return self._database.rows(resolve(statement), parameters, _CONSISTENT)

    def live_instruments(self, stream: Stream) -> dict[str, dict[str, Any]]:
        """The newest row of each loaded instrument that was live in it, by name."""
        rows = self.rows("live_instruments", **stream._asdict())
        instruments = (dict(zip(COLUMNS, row, strict=True)) for row in rows)
        return {row["instrument_name"]: row for row in instruments}

    def indexes(self, currency: str) -> list[str]:
        """Indexes of the loaded options and futures of a currency."""
        return [index for (index,) in self.rows("indexes", currency=currency)]


class LoadedSeqs:
    """`SeqLookup` of the trades of `stream`."""

    def __init__(self, tables: LoadedTables, stream: Stream, clock: Callable[[], float] = time.time) -> None:
        self._tables = tables
        self._stream = stream
        self._clock = clock

    def last_seqs(self, span: Span, names: Collection[str]) -> dict[str, int]:
        """Greatest trade_seq in `span` of each of these instruments, without those that have none."""
        lasts: dict[str, int] = {}
        for look_back_ms in LOOK_BACK_MS:
            from_ms = max(span.start_ms, span.end_ms - look_back_ms)
            if wanted := set(names) - lasts.keys():
                lasts |= self._query("last_seqs", Span(from_ms, span.end_ms), names=sorted(wanted))
            if from_ms == span.start_ms:
                break
        if DROPPED_TRADES.name in self._tables.names and (wanted := set(names) - lasts.keys()):
            lasts |= self._query("last_dropped", span, names=sorted(wanted))
        return lasts

    def first_seqs(self, span: Span) -> dict[str, int]:
        """Smallest trade_seq in `span` of every instrument."""
        return self._query("first_seqs", span)

    def contents(self, span: Span, names: Collection[str]) -> dict[TradeKey, int]:
        """Content digest of the newest version of each trade of these instruments that is loaded with a time in `span`."""
        rows = self._tables.rows(
            "contents",
            **self._stream._asdict(),
            from_ms=span.start_ms,
            to_ms=span.end_ms,
            load_id=self._oldest_load_id(span),
            names=sorted(names),
        )
        columns = list(zip(*rows, strict=True)) or [()] * len(PAGE_SCHEMA)
        arrays = [
            pa.array(list(values), each.type) for values, each in zip(columns, PAGE_SCHEMA, strict=True)
        ]
        table = pa.Table.from_arrays(arrays, schema=PAGE_SCHEMA)
        return dict(zip(trade_keys(table), content_digests(table), strict=True))

    def trade_ids(self, keys: Collection[TradeKey]) -> dict[TradeKey, str]:
        """The id of each of these trades that was loaded first, without those that are not loaded."""
        ids: dict[TradeKey, str] = {}
        for name in sorted({name for name, _ in keys}):
            seqs = sorted(seq for each, seq in keys if each == name)
            rows = self._tables.rows("trade_ids", **self._stream._asdict(), name=name, seqs=seqs)
            ids |= {(name, int(seq)): trade_id for seq, trade_id in rows}
        return ids

    def _query(self, statement: str, span: Span, **parameters: Any) -> dict[str, int]:
        rows = self._tables.rows(
            statement,
            **self._stream._asdict(),
            from_ms=span.start_ms,
            to_ms=span.end_ms,
            load_id=self._oldest_load_id(span),
            **parameters,
        )
        return {name: int(seq) for name, seq in rows}

    def _oldest_load_id(self, span: Span) -> str:
        """A load id is the time of its package, and trades are loaded after they were made."""
        if span.end_ms / 1000 > self._clock():  # the exchange is a sandbox with a clock in the future
            return ""
        return f"{max(0.0, span.start_ms / 1000 - CLOCK_MARGIN_S):.0f}"
