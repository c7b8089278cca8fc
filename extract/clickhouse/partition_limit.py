"""The number of partitions that one insert may have: raised where the server allows it, otherwise inserts are divided.

A server accepts 100 partitions in a block by default, shared ones often fewer. Trades are partitioned by month, and a
load package may hold any number of months.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from clickhouse_connect.driver.client import Client

SETTING = "max_partitions_per_insert_block"
_ALLOWED = f"select max from system.settings where name = '{SETTING}'"


class PartitionLimit(NamedTuple):
    """`settings` of an insert with which it may have `most` partitions."""

    most: float
    settings: dict[str, Any]


def partition_limit(client: Client, partitions: int) -> PartitionLimit:
    """The limit for an insert that has so many partitions, raised as far as needed and allowed.

    One query if the insert has more than the server accepts by default.
    """
    known = client.server_settings.get(SETTING)
    limit = int(known.value) if known else 0
    if known is None or limit == 0 or partitions <= limit:
        return PartitionLimit(limit or float("inf"), {})
    if known.readonly:
        return PartitionLimit(limit, {})
    rows = client.query(_ALLOWED).result_rows
    allowed = str(rows[0][0] or "") if rows else ""
    most = min(partitions, max(limit, int(allowed))) if allowed else partitions
    return PartitionLimit(most, {SETTING: most})


def months_of(table: pa.Table) -> npt.NDArray[np.datetime64]:
    """The month of each row of a table with a column `timestamp`."""
    times = table.column("timestamp").cast(pa.timestamp("ms")).to_numpy()
    months: npt.NDArray[np.datetime64] = times.astype("datetime64[M]")
    return months


def divide_by_month(table: pa.Table, most: int) -> Iterator[tuple[str, pa.Table]]:
    """(name, rows) of parts that have at most so many months each; rows stay in their order."""
    months = months_of(table)
    distinct = np.unique(months)
    for first in range(0, len(distinct), most):
        part = distinct[first : first + most]
        rows = np.flatnonzero((months >= part[0]) & (months <= part[-1]))
        yield str(part[0]), table.take(pa.array(rows))
