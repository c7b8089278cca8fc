"""Named SQL statements, read from a .sql file, on the configured databases."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from extract.clickhouse.settings import IS_REPLICATED, MART_DATABASE, RAW_DATABASE, RUNS_DATABASE

_DATABASES = {"deribit_raw": RAW_DATABASE, "deribit": MART_DATABASE, "deribit_runs": RUNS_DATABASE}
_DATABASE = re.compile(r"\bderibit(?:_raw|_runs)?\b")
_ENGINE = re.compile(r"\b(engine = |TABLE ENGINE ON )(\w*MergeTree)\b")


def load_statements(module: str, file_name: str) -> dict[str, str]:
    """Statement by name, from a file next to the file of a module. A line `-- name: NAME` precedes each statement.

    The file uses the default names of the databases, so that its statements can be tried in any client.
    """
    text = Path(module).with_name(file_name).read_text(encoding="utf-8")
    text = with_configured_engines(with_configured_databases(text))
    _, *parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[::2], map(str.strip, parts[1::2]), strict=True))


def render(sql: str, resolve: Callable[[str], str]) -> str:
    """`sql` with each placeholder `<name>` replaced by `resolve(name)`."""
    return re.sub(r"<(\w+)>", lambda placeholder: resolve(placeholder[1]), sql)


def with_configured_databases(sql: str) -> str:
    """`sql` with the databases of TAPE_SCHEMA and TAPE_RAW_SCHEMA instead of deribit, deribit_raw and deribit_runs."""
    return _DATABASE.sub(lambda name: _DATABASES[name[0]], sql)


def with_configured_engines(sql: str) -> str:
    """`sql` with replicated engines in CREATE TABLE and GRANT if TAPE_REPLICATED is set."""
    return _ENGINE.sub(r"\1Replicated\2", sql) if IS_REPLICATED else sql
