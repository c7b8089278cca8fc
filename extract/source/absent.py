"""Absent trades: which are provisional, and which are due to be requested again.

An hour, a day and a week after the exchange first lacked a trade that was requested by number, it is requested again,
because the exchange may fill it in. Imports no dlt, as `tables`.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from extract.clickhouse.client import Database
from extract.clickhouse.finished import CONSISTENT
from extract.clickhouse.settings import RAW_DATABASE
from extract.clickhouse.statements import load_statements, render
from extract.deribit.schema import MAX_SEQ
from extract.deribit.streams import Stream
from extract.source.tables import loaded_relation
from extract.sweep.ledger import SeqRange

ABSENT_STATEMENTS: Mapping[str, str] = load_statements(__file__, "absent.sql")

StreamRange = tuple[Stream, SeqRange]


def absent_parameters(
    currencies: Sequence[str], kinds: Sequence[str], now_ms: int | None = None
) -> dict[str, Any]:
    """Parameters of the statements in absent.sql."""
    now_ms = round(time.time() * 1000) if now_ms is None else now_ms
    return {"currencies": list(currencies), "kinds": list(kinds), "max_seq": MAX_SEQ, "now_ms": now_ms}


def query_absent(
    database: Database,
    statement: str,
    parameters: dict[str, Any],
    tables: Collection[str] | None = None,
) -> list[StreamRange]:
    """Ranges of a statement of absent.sql that returns (instrument_name, currency, kind, first_seq, last_seq).

    `tables`: the raw tables that exist, where the caller knows them.
    """
    if tables is None:
        tables = set(database.column(f"select name from system.tables where database = '{RAW_DATABASE}'"))
    rows = database.rows(_render(statement, tables), parameters, CONSISTENT)
    return [(Stream(currency, kind), SeqRange(name, *seqs)) for name, currency, kind, *seqs in rows]


def _render(statement: str, tables: Collection[str]) -> str:
    """A statement of absent.sql; `tables`: the raw tables that exist."""

    def resolve(name: str) -> str:
        if name in ABSENT_STATEMENTS:
            return render(ABSENT_STATEMENTS[name], resolve)
        return loaded_relation(name, tables)

    return resolve(statement)
