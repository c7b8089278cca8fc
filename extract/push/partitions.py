"""Partitions of a push: the rows that are copied and compared together, and the digests by which they are compared."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from extract.clickhouse.finished import finished_rows
from extract.clickhouse.settings import RAW_DATABASE
from extract.errors import ProofError
from extract.push.database import STATEMENTS, PushDatabase, RawTable
from extract.source.tables import RAW_TABLES

STATE = "_dlt_pipeline_state"
PUSHED = frozenset({STATE, *(table.name for table in RAW_TABLES.values() if table.is_pushed)})
"""Tables that are copied. The list of load packages is not: a package is listed on cloud once its rows are there."""
CHUNK_ROWS = 200_000
"""Rows that are read and inserted at once; about 10 MB on the wire."""
CHUNK_LOADS = 100
"""Load packages that are read and inserted at once; a chunk of states, of about 50 kB each, stays as small."""


class Group(NamedTuple):
    """Rows of one load package in a partition; a large package is divided into buckets by the hash of the key."""

    load_id: str
    bucket: int


class Digest(NamedTuple):
    """Digest of a multiset of rows: their number, the sum of the hashes of their keys, and of their contents."""

    rows: int
    keys: int
    content: int


Digests = dict[Group, Digest]
NO_ROWS = Digest(0, 0, 0)


@dataclass(frozen=True)
class Partition:
    """One month of trades, or, if `month` is None, another table as a whole.

    `buckets`: into how many buckets, at least two, each load package of more than `chunk_rows` is divided.
    """

    table: RawTable
    month: int | None = None
    buckets: Mapping[str, int] = field(default_factory=dict)
    chunk_rows: int = CHUNK_ROWS

    @property
    def label(self) -> str:
        return self.table.name if self.month is None else format_month(self.month)

    @property
    def source(self) -> str:
        """Rows of every load package; a reader selects finished ones by their load ids."""
        return f"{self.table.identifier} where {self._in_month}"

    @property
    def finished_source(self) -> str:
        return f"{finished_rows(self.table.name)} where {self._in_month}"

    @property
    def _in_month(self) -> str:
        return "1" if self.month is None else f"toYYYYMM(timestamp) = {self.month}"

    def digests(self, database: PushDatabase, loads: Collection[str] | None = None) -> Digests:
        """The digest of each group of rows of `loads` (None: of all); empty if the table does not exist."""
        if self.table.name not in database.tables:
            return {}
        sql = f"""
            select
                toString(_dlt_load_id) as load_id,
                transform(load_id, {{loads:Array(String)}}, {{buckets:Array(UInt64)}}, 1) as buckets,
                toUInt32({self.table.key_hash} % buckets) as bucket,
                count(),
                sum({self.table.key_hash}),
                sum({self.table.content_hash})
            from {self.source}
            group by load_id, buckets, bucket"""
        buckets = {"": 1, **self.buckets}
        rows = database.rows(sql, loads=list(buckets), buckets=list(buckets.values()))
        digests = {Group(load_id, bucket): Digest(*digest) for load_id, _, bucket, *digest in rows}
        return {group: each for group, each in digests.items() if loads is None or group.load_id in loads}

    def chunks(self, digests: Digests, groups: Iterable[Group]) -> Iterator[list[Group]]:
        """Divide `groups` into chunks, ordered by load package; a bucket is a chunk by itself."""
        chunk: list[Group] = []
        rows = 0
        for group in sorted(groups):
            is_bucket = group.load_id in self.buckets
            group_rows = digests[group].rows
            if chunk and (is_bucket or rows + group_rows > self.chunk_rows or len(chunk) == CHUNK_LOADS):
                yield chunk
                chunk, rows = [], 0
            if is_bucket:
                yield [group]
                continue
            chunk.append(group)
            rows += group_rows
        if chunk:
            yield chunk

    def condition(self, groups: Sequence[Group]) -> str:
        """SQL condition that a row belongs to `groups`, which are one bucket or no buckets. Parameter: loads."""
        buckets = self.buckets.get(groups[0].load_id, 1)
        in_bucket = f" and {self.table.key_hash} % {buckets} = {groups[0].bucket}" if buckets > 1 else ""
        return f"_dlt_load_id in {{loads:Array(String)}}{in_bucket}"


def format_month(month: int) -> str:
    """202601 as `2026-01`."""
    return f"{month // 100}-{month % 100:02}"


def require_same_columns(local: Mapping[str, RawTable], cloud: Mapping[str, RawTable]) -> None:
    """Raise ProofError that names the first column that differs: hashes of different types cannot be compared."""
    for name in sorted(PUSHED & local.keys() & cloud.keys()):
        cloud_types = dict(cloud[name].columns)
        differing = [
            column for column, type_ in local[name].columns if cloud_types.pop(column, None) != type_
        ]
        if differing := [*differing, *cloud_types]:
            raise ProofError(
                f"{RAW_DATABASE}.{name} does not have the same column {differing[0]} in local and cloud; "
                "list the differences with: tape schema-align"
            )


def finished_loads(database: PushDatabase) -> set[str]:
    """Load packages that are complete."""
    return {load_id for (load_id,) in database.rows(STATEMENTS["finished_loads"])}


def rows_by_month(database: PushDatabase) -> dict[int, dict[str, int]]:
    """Number of trades by month and load package."""
    months: dict[int, dict[str, int]] = {}
    for month, load_id, rows in database.rows(STATEMENTS["rows_by_month"]):
        months.setdefault(month, {})[load_id] = rows
    return months


def dropped_months(database: PushDatabase) -> set[int]:
    """Months that `tape retention` dropped from this database's table of trades."""
    if not database.rows(STATEMENTS["has_retention_drops"])[0][0]:
        return set()
    return {month for (month,) in database.rows(STATEMENTS["dropped_months"])}
