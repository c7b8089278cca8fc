"""What the loaded trades take on the server's disk."""

from __future__ import annotations

from typing import NamedTuple

from clickhouse_connect.driver.exceptions import ClickHouseError
from urllib3.exceptions import HTTPError

from extract.clickhouse.client import shared_client
from extract.clickhouse.errors import to_tape_error
from extract.clickhouse.settings import RAW_DATABASE, ClickHouseSettings

_SQL = f"""
select sum(bytes_on_disk), sum(rows)
from system.parts
where active and database = '{RAW_DATABASE}' and table = 'trades'"""


class DiskUse(NamedTuple):
    """Of `deribit_raw.trades`, as it is merged so far; 0 where there is no such table."""

    bytes: int
    rows: int


def disk_use(settings: ClickHouseSettings) -> DiskUse:
    """Raises OutsideError or UsageError where the server does not answer."""
    try:
        [(size, rows)] = shared_client(settings).query(_SQL).result_rows
    except (ClickHouseError, HTTPError, OSError) as error:
        raise to_tape_error(error, settings) from error
    return DiskUse(int(size), int(rows))
