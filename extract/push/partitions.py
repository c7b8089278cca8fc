"""What is pushed and how it is compared: tables, their parts, and what the rows of a part come to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from extract.clickhouse.settings import MART_DATABASE, RAW_DATABASE
from extract.errors import ProofError
from extract.push.database import TRADES, PushDatabase, RawTable
from extract.source.tables import RAW_TABLES

LOADS = "_dlt_loads"
STATE = "_dlt_pipeline_state"
VERSIONS = "_dlt_version"
NOT_PUSHED = frozenset(
    {LOADS, VERSIONS, *(name for name, table in RAW_TABLES.items() if not table.is_pushed)}
)
"""Tables that are not copied as data. `_dlt_loads` follows its packages' rows, and `_dlt_version` is written as tables
are created."""
CHUNK_ROWS = 200_000
"""What is read and inserted at once; some 10 MB on the wire."""
CHUNK_LOADS = 100
"""So that a chunk of states, of which each is some 50 kB, is no larger."""


class Group(NamedTuple):
    """Rows of one load package within a part; a large package is cut into buckets by its keys."""

    load_id: str
    bucket: int


class Digest(NamedTuple):
    """Of a multiset of rows: how many, the sum of their keys' hashes, the sum of their content's."""

    rows: int
    keys: int
    content: int


Digests = dict[Group, Digest]


@dataclass(frozen=True)
class Part:
    """What is copied and proven at once: a month of trades, or one of the other tables whole.

    `buckets`: into how many each large load package is cut, at least two.
    """

    table: RawTable
    month: int | None
    buckets: Mapping[str, int]

    @property
    def label(self) -> str:
        return self.table.name if self.month is None else f"{self.month // 100}-{self.month % 100:02}"

    @property
    def source(self) -> str:
        where = "1" if self.month is None else f"toYYYYMM(timestamp) = {self.month}"
        return f"{RAW_DATABASE}.{self.table.name} where {where}"

    def digests(self, side: PushDatabase) -> Digests:
        """What each group of rows comes to; nothing where the table is not there."""
        if self.table.name not in side.tables:
            return {}
        sql = f"""
            select
                toString(_dlt_load_id) as load_id,
                transform(load_id, {{loads:Array(String)}}, {{cuts:Array(UInt64)}}, 1) as cut,
                toUInt32({self.table.key_hash} % cut) as bucket,
                count(),
                sum({self.table.key_hash}),
                sum({self.table.content_hash})
            from {self.source}
            group by load_id, cut, bucket"""
        cut = {"": 1, **self.buckets}
        rows = side.rows(sql, loads=list(cut), cuts=list(cut.values()))
        return {Group(load_id, bucket): Digest(*digest) for load_id, _, bucket, *digest in rows}

    def chunks(self, digests: Digests, wanted: Iterable[Group]) -> Iterator[list[Group]]:
        """`wanted` in the order of load packages, as many at once as make a chunk; a bucket stands alone."""
        chunk: list[Group] = []
        rows = 0
        for group in sorted(wanted):
            is_alone = group.load_id in self.buckets
            more = digests[group].rows
            if chunk and (is_alone or rows + more > CHUNK_ROWS or len(chunk) == CHUNK_LOADS):
                yield chunk
                chunk, rows = [], 0
            if is_alone:
                yield [group]
                continue
            chunk.append(group)
            rows += more
        if chunk:
            yield chunk

    def condition(self, groups: Sequence[Group]) -> str:
        """SQL: a row belongs to `groups`, of which one that is a bucket stands alone. Parameter: loads."""
        cut = self.buckets.get(groups[0].load_id, 1)
        within = f" and {self.table.key_hash} % {cut} = {groups[0].bucket}" if cut > 1 else ""
        return f"_dlt_load_id in {{loads:Array(String)}}{within}"


def require_same(local: Mapping[str, RawTable], cloud: Mapping[str, RawTable]) -> None:
    """Raises ProofError that names the first column which is not the same: hashes of other types say nothing."""
    for name, table in local.items():
        if name in NOT_PUSHED or name not in cloud:
            continue
        there = dict(cloud[name].columns)
        differing = [column for column, kind in table.columns if there.pop(column, None) != kind] + [*there]
        if differing:
            raise ProofError(
                f"{RAW_DATABASE}.{name} has not the same column {differing[0]} in local and cloud; "
                "what differs is listed by: tape schema-align"
            )


def finished_loads(side: PushDatabase) -> set[str]:
    """Load packages that are whole."""
    return {
        load_id for (load_id,) in side.rows(f"select load_id from {RAW_DATABASE}.{LOADS} where status = 0")
    }


def rows_by_month(side: PushDatabase) -> dict[int, dict[str, int]]:
    """Rows of trades by month and load package."""
    sql = f"""
        select toYYYYMM(timestamp) as month, toString(_dlt_load_id) as load_id, count()
        from {RAW_DATABASE}.{TRADES} group by month, load_id order by month, load_id"""
    months: dict[int, dict[str, int]] = {}
    for month, load_id, rows in side.rows(sql):
        months.setdefault(month, {})[load_id] = rows
    return months


def dropped_months(side: PushDatabase) -> set[int]:
    """Months of raw trades that `tape retention` dropped from this very table."""
    table = f"{MART_DATABASE}.retention_drops"
    if not side.rows(f"select 1 from system.tables where concat(database, '.', name) = '{table}'"):
        return set()
    sql = f"""
        select distinct month from {table}
        where table_id in (select uuid from system.tables where database = '{RAW_DATABASE}' and name = '{TRADES}')"""
    return {month for (month,) in side.rows(sql)}
