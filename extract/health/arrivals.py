"""Checks of what the exchange sends: rejected records, unknown fields, new streams, and the schema of the raw tables."""

from __future__ import annotations

from extract.clickhouse.finished import LOAD_ID
from extract.health.measurement import Inventory, Measurement, enumerate_names
from extract.source.tables import RAW_TABLES, loaded_relation


def measure_rejected(inventory: Inventory) -> Measurement | None:
    """Records of the last day's load packages that could not be typed."""
    if "trades" not in inventory.raw:
        return None
    [(records, reason)] = inventory.rows("rejected")
    if not records:
        return Measurement(0, "no record of the last day was rejected")
    return Measurement(records, f"{records:,} records of the last day were rejected, most of them: {reason}")


def measure_fields(inventory: Inventory) -> Measurement | None:
    """Fields that no column has and that the exchange sent for the first time in the last day."""
    if "trades" not in inventory.raw:
        return None
    tables = [
        name for name, table in RAW_TABLES.items() if "extra" in table.columns and name in inventory.raw
    ]
    rows = " union all ".join(
        f"select extra, {LOAD_ID}, {name == 'trades'} as is_trade from {loaded_relation(name, inventory.raw)}"
        for name in tables
    )
    names = [name for (name,) in inventory.rows("new_fields", rows_with_extra=rows)]
    if not names:
        return Measurement(0, "no new field without a column in the last day")
    return Measurement(
        len(names),
        f"{len(names):,} fields of the last day are new and have no column: {enumerate_names(names, 5)}",
    )


def measure_streams(inventory: Inventory) -> Measurement | None:
    """Currencies and kinds that appeared in the last week."""
    if "instruments" not in inventory.raw:
        return None
    new = [f"{currency} {kind}".strip() for currency, kind in inventory.rows("new_streams")]
    if not new:
        return Measurement(0, "no new currency or kind this week")
    return Measurement(len(new), f"{len(new):,} streams are new this week: {enumerate_names(new, 5)}")


def measure_schema(inventory: Inventory) -> Measurement | None:
    """Columns of the raw tables that are missing, undeclared or of another type."""
    if "trades" not in inventory.raw:
        return None
    actual: dict[str, dict[str, str]] = {}
    for table, name, type_ in inventory.rows("columns"):
        actual.setdefault(table, {})[name] = type_
    differing = [
        f"{table}.{name}"
        for table, definition in RAW_TABLES.items()
        if table in actual
        for name in sorted({*definition.columns, *actual[table]})
        if definition.columns.get(name) != actual[table].get(name)
    ]
    if not differing:
        return Measurement(0, "the columns of the raw tables are those declared")
    return Measurement(
        len(differing),
        f"{len(differing):,} columns of raw tables differ from those declared: {enumerate_names(differing)}",
    )
