"""Column hints for ClickHouse types that dlt does not have."""

from __future__ import annotations

TYPE_HINT = "x-clickhouse-type"


def column_types(**types: str) -> dict[str, dict[str, str]]:
    """Return column hints with ClickHouse types that dlt does not have, written in full as the server prints them.

    `columns=column_types(kind="LowCardinality(String)", tick_direction="UInt8")`; a nullable column needs Nullable().
    """
    return {name: {"name": name, TYPE_HINT: type_} for name, type_ in types.items()}
