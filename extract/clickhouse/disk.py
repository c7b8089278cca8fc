"""Disk space of the loaded trades."""

from __future__ import annotations

from typing import NamedTuple

from extract.clickhouse.client import shared_database
from extract.clickhouse.settings import RAW_DATABASE, ClickHouseSettings

_SQL = f"""
select sum(bytes_on_disk), sum(rows)
from system.parts
where active and database = '{RAW_DATABASE}' and table = 'trades'"""


class DiskUse(NamedTuple):
    """Bytes and rows of the active parts of `deribit_raw.trades`; 0 where there is no such table."""

    bytes: int
    rows: int


def disk_use(settings: ClickHouseSettings) -> DiskUse:
    """Query the server. Raises OutsideError or UsageError where it cannot be reached."""
    [(size, rows)] = shared_database(settings).rows(_SQL)
    return DiskUse(int(size), int(rows))
