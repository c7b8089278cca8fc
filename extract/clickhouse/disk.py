"""Disk space of a table."""

from __future__ import annotations

from typing import NamedTuple

from extract.clickhouse.client import shared_database
from extract.clickhouse.finished import LOADS, finished_rows
from extract.clickhouse.settings import RAW_DATABASE, ClickHouseSettings

_SQL = """
select sum(bytes_on_disk), sum(rows)
from system.parts
where active and database || '.' || table = {table:String}"""


class DiskUse(NamedTuple):
    """Bytes and rows of the active parts of a table; 0 where there is no such table."""

    bytes: int
    rows: int


def disk_use(settings: ClickHouseSettings, table: str) -> DiskUse:
    """Query the server. Raises OutsideError or UsageError where it cannot be reached."""
    [(size, rows)] = shared_database(settings).rows(_SQL, {"table": table})
    return DiskUse(int(size), int(rows))


def loaded_disk_use(settings: ClickHouseSettings, table: str = "trades") -> DiskUse:
    """Disk use of the rows of finished load packages in a raw table; bytes by their share of all rows.

    Raises OutsideError or UsageError where the server cannot be reached.
    """
    use = disk_use(settings, f"{RAW_DATABASE}.{table}")
    if not use.rows:
        return use
    database = shared_database(settings)
    has_list = f"select count() from system.tables where database = '{RAW_DATABASE}' and name = '{LOADS}'"
    rows = database.value(f"select count() from {finished_rows(table)}") if database.value(has_list) else 0
    return DiskUse(round(use.bytes * min(1.0, rows / use.rows)), rows)
