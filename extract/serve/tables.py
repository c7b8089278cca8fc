"""Columns of the tables that the API answers from, as tables.toml has them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

_TABLES: dict[str, dict[str, list[str]]] = tomllib.loads(
    Path(__file__).with_name("tables.toml").read_text("utf-8")
)


def table_columns(table: str) -> Mapping[str, list[str]]:
    """Type and description of each column, by name, in order."""
    return _TABLES[table]


def columns_in_seconds(table: str) -> list[str]:
    """Columns with times without a fraction, which ClickHouse writes into Arrow as plain numbers."""
    return [name for name, (type_, _) in _TABLES.get(table, {}).items() if type_.startswith("second")]
