"""Disk space of a table."""

from __future__ import annotations

from typing import NamedTuple

from extract.clickhouse.client import shared_database
from extract.clickhouse.settings import RAW_DATABASE, ClickHouseSettings

_SQL = """
select sum(bytes_on_disk), sum(rows)
from system.parts
where active and database || '.' || table = {table:String}"""


class DiskUse(NamedTuple):
    """Bytes and rows of the active parts of a table; 0 where there is no such table."""

    bytes: int
    rows: int


def disk_use(settings: ClickHouseSettings, table: str = f"{RAW_DATABASE}.trades") -> DiskUse:
    """Query the server. Raises OutsideError or UsageError where it cannot be reached."""
    [(size, rows)] = shared_database(settings).rows(_SQL, {"table": table})
    return DiskUse(int(size), int(rows))
