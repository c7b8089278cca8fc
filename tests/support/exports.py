"""Exports of the small market, and readers of their files."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from extract.export.export import ExportOptions, ExportReport, export
from extract.export.store import open_store
from extract.export.verify import VerifyReport, verify
from tests.support.market import Market


def export_to(
    market: Market,
    folder: Path | str,
    *,
    before_publish: Callable[[str], None] | None = None,
    **options: Any,
) -> ExportReport:
    with open_store(str(folder), is_new=True) as store:
        return export(
            market.database, store, ExportOptions(**options), wait_s=0, before_publish=before_publish
        )


def prove(folder: Path | str) -> VerifyReport:
    with open_store(str(folder), is_new=False) as store:
        return verify(store)


def read(folder: Path, table: str, columns: str) -> list[tuple[Any, ...]]:
    """Rows of a table by DuckDB, with the folders as columns, sorted."""
    files = f"read_parquet('{folder}/{table}/**/*.parquet', hive_partitioning = true)"
    return duckdb.sql(f"select {columns} from {files} order by all").fetchall()


def day_of(seconds: float) -> str:
    return str(datetime.fromtimestamp(seconds, UTC).date())


def month_of(trade: dict[str, Any]) -> str:
    return day_of(trade["timestamp"] / 1000)[:7]
