"""Create databases and tables that are missing, so that existing ones need no right to create them."""

from __future__ import annotations

import time
from collections.abc import Mapping

from extract.clickhouse.client import Database, quote_identifier
from extract.clickhouse.errors import ACCESS_DENIED, server_code
from extract.clickhouse.settings import IS_REPLICATED
from extract.errors import FinalError, OutsideError

_EXISTING = """
select '' from system.databases where name = {database:String}
union all
select name from system.tables where database = {database:String}"""

NEW_TABLE_S = 1.0
"""Time in which the other replicas of a cluster start a new table."""


def create_missing(database: Database, name: str, tables: Mapping[str, str] | None = None) -> None:
    """Create the database `name`, and those of its `tables` (statements by name) that do not exist.

    Raises FinalError that names what an admin has to create if this user may not.
    """
    tables = tables or {}
    existing = set(database.column(_EXISTING, {"database": name}))
    if not existing:
        _create(database, f"database {name}", f"create database if not exists {quote_identifier(name)}")
    if missing := [table for table in tables if table not in existing]:
        for table in missing:
            _create(database, f"table {name}.{table}", tables[table])
        wait_for_replicas()


def wait_for_replicas() -> None:
    """Wait until the other replicas of a cluster have started new tables; without replicas, return at once.

    A replica confirms that it has created a table before it starts it. If it copies a part while it starts, it never
    counts for the quorum of the insert that wrote the part, and that insert waits until it times out.
    """
    if IS_REPLICATED:
        time.sleep(NEW_TABLE_S)


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
