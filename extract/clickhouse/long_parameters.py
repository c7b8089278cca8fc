"""Arrays that are too long for a parameter of a statement."""

from __future__ import annotations

import json
import re
from typing import Any

from clickhouse_connect.driver.external import ExternalData

LONGEST_BYTES = 32_768
"""The longest array, as text, that is sent as a parameter. ClickHouse accepts 131,072 bytes, escaped."""


def bind_long_arrays(
    sql: str, parameters: dict[str, Any] | None
) -> tuple[str, dict[str, Any] | None, ExternalData | None]:
    """Let the long arrays of a query be read from temporary tables that are sent with it.

    A placeholder `{name:Array(Type)}` becomes a subquery. Not for mutations, which are executed after the statement has
    ended.
    """
    if not parameters:
        return sql, parameters, None
    tables = ExternalData()
    short = dict(parameters)
    for name, value in parameters.items():
        match = re.search(rf"\{{{name}:(Array\(.+?\))\}}", sql) if isinstance(value, list | tuple) else None
        if match is None or len(text := json.dumps({"value": value}, default=str)) <= LONGEST_BYTES:
            continue
        del short[name]
        table, placeholder = f"parameter_{name}", re.escape(match[0])
        sql = re.sub(rf"\bin\s+{placeholder}", f"in (select arrayJoin(value) from {table})", sql, flags=re.I)
        sql = re.sub(placeholder, f"(select value from {table})", sql)
        tables.add_file(file_name=table, data=text.encode(), fmt="JSONEachRow", structure=f"value {match[1]}")
    return sql, short, tables if tables.files else None
