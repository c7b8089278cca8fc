"""Create databases and tables that are missing, so that existing ones need no right to create them."""

from __future__ import annotations

from collections.abc import Mapping

from extract.clickhouse.client import Database, quote_identifier
from extract.clickhouse.errors import ACCESS_DENIED, server_code
from extract.errors import FinalError, OutsideError

_EXISTING = """
select '' from system.databases where name = {database:String}
union all
select name from system.tables where database = {database:String}"""


def create_missing(database: Database, name: str, tables: Mapping[str, str] | None = None) -> None:
    """Create the database `name`, and those of its `tables` (statements by name) that do not exist.

    Raises FinalError that names what an admin has to create if this user may not.
    """
    tables = tables or {}
    existing = set(database.column(_EXISTING, {"database": name}))
    if not existing:
        _create(database, f"database {name}", f"create database if not exists {quote_identifier(name)}")
    for table, statement in tables.items():
        if table not in existing:
            _create(database, f"table {name}.{table}", statement)


def _create(database: Database, what: str, statement: str) -> None:
    try:
        database.command(statement)
    except OutsideError as error:
        if server_code(error) != ACCESS_DENIED:
            raise
        settings = database.settings
        raise FinalError(
            f"ClickHouse at {settings.url} has no {what}, and user {settings.user!r} may not create it: "
            f"let an admin run `{' '.join(statement.split())}`, or grant that right; docs/roles.md lists all rights."
        ) from error
