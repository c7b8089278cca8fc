"""Copy the missing rows of one partition to cloud, then compare both databases."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple

from extract.clickhouse.settings import RAW_DATABASE
from extract.push.database import PushDatabase
from extract.push.partitions import NO_ROWS, Digests, Group, Partition

CHUNKS_IN_FLIGHT = 3
"""Chunks that are read and inserted at the same time; each is in memory meanwhile, compressed."""
ROWS_PER_REPAIR = 5_000
ROWS_PER_COMPARISON = 1_000_000
"""Trades of both sides whose newest versions are compared at once, so that memory does not grow with a month."""
MAX_REPORTED_ROWS = 5
"""Differing rows of a partition that are reported one by one; the others are only counted."""

Row = tuple[int, int]
"""(hash of the key, hash of the content)."""


@dataclass
class PartitionResult:
    """Comparison of one partition after the push, in rows.

    Of the load packages that local has finished, rows are `lacking` on cloud, `changed` there, or `added` there.
    `unfinished` of the added rows belong to a package that was never finished. `cloud_only` rows belong to packages
    that only cloud has finished; `restated` trades have another content in the newest of these than in local.
    `deletions`: statements that delete changed and added rows on cloud; if there are more rows than are reported, the
    next push reports those.
    """

    label: str
    local: int = 0
    cloud: int = 0
    cloud_only: int = 0
    pushed: int = 0
    lacking: int = 0
    changed: int = 0
    added: int = 0
    restated: int = 0
    unfinished: int = 0
    deletions: list[str] = field(default_factory=list)
    differing_loads: set[str] = field(default_factory=set)

    @property
    def is_equal(self) -> bool:
        return not (self.lacking or self.changed or self.added or self.restated)

    def to_json(self) -> dict[str, Any]:
        return {
            "partition": self.label,
            "equal": self.is_equal,
            "local": self.local,
            "cloud": self.cloud,
            "own": self.cloud_only,
            "pushed": self.pushed,
            "lacking": self.lacking,
            "changed": self.changed,
            "added": self.added,
            "restated": self.restated,
        }


class _Differences(NamedTuple):
    lacking: Counter[Row]
    changed: Counter[Row]
    added: Counter[Row]


@dataclass(frozen=True)
class Reconciler:
    """Copies and compares partitions.

    `loads`: packages that local has finished; `cloud_only`: packages that only cloud has finished. With `copies` False
    it only compares. `on_rows` is called with the number of trades that have arrived.
    """

    local: PushDatabase
    cloud: PushDatabase
    loads: Collection[str]
    cloud_only: Collection[str]
    copies: bool
    on_rows: Callable[[int], None]

    def reconcile(self, part: Partition, only: Collection[str] | None = None) -> PartitionResult:
        """Copy what cloud lacks of `part`, of the load packages in `only` or of all, and compare the result."""
        loads = self.loads if only is None else only
        in_local = part.digests(self.local, loads)
        in_cloud = part.digests(self.cloud, only)
        pushed = 0
        if self.copies:
            pushed = self._copy(part, in_local, in_cloud, salt="")
            if pushed:
                in_cloud = part.digests(self.cloud, only)
                # Rows that were pushed before and then deleted by hand need a new token: the server ignores a known one.
                if self._copy(part, in_local, in_cloud, salt=f"/{time.time_ns()}"):
                    in_cloud = part.digests(self.cloud, only)
        return self._compare(part, in_local, in_cloud, pushed)

    def _copy(self, part: Partition, in_local: Digests, in_cloud: Digests, salt: str) -> int:
        """Insert the groups that cloud lacks entirely, and single rows of those that it has in part; rows inserted."""
        absent = [group for group in in_local if group not in in_cloud]
        partial = [group for group in in_local if group in in_cloud and in_cloud[group] != in_local[group]]
        with ThreadPoolExecutor(CHUNKS_IN_FLIGHT, thread_name_prefix="push") as pool:
            chunks = part.chunks(in_local, absent)
            rows = sum(pool.map(lambda chunk: self._copy_chunk(part, in_local, chunk, salt), chunks))
        return rows + sum(self._copy_missing_rows(part, group, salt) for group in partial)

    def _copy_chunk(self, part: Partition, in_local: Digests, chunk: Sequence[Group], salt: str) -> int:
        facts = [(*group, *in_local[group]) for group in chunk]
        rows = sum(in_local[group].rows for group in chunk)
        self._insert(part, chunk, rows, token=f"{digest(facts)}{salt}")
        return rows

    def _copy_missing_rows(self, part: Partition, group: Group, salt: str) -> int:
        missing = self._differences(part, group).lacking
        rows = missing.total()
        turn = 0
        while missing:
            batch = sorted(missing)[:ROWS_PER_REPAIR]
            contents = [content for _, content in batch]
            # A row that is missing twice is inserted in two turns.
            content_hash = part.table.content_hash
            only = f" and {content_hash} in {{contents:Array(UInt64)}} limit 1 by {content_hash}"
            token = f"{digest([group, batch, turn])}{salt}"
            self._insert(part, [group], len(batch), token, only, contents=contents)
            missing -= Counter(batch)
            turn += 1
        return rows

    def _insert(
        self,
        part: Partition,
        groups: Sequence[Group],
        rows: int,
        token: str,
        only: str = "",
        **parameters: Any,
    ) -> None:
        """Insert the rows of `groups`, or those that the condition `only` selects."""
        columns = ", ".join(part.table.column_names)
        sql = f"select {columns} from {part.source} and {part.condition(groups)}{only}"
        block = self.local.read(sql, loads=[group.load_id for group in groups], **parameters)
        self.cloud.write(part.table, block, f"push/{part.table.name}/{token}")
        if part.month is not None:
            self.on_rows(rows)

    def _compare(self, part: Partition, in_local: Digests, in_cloud: Digests, pushed: int) -> PartitionResult:
        result = PartitionResult(part.label, pushed=pushed)
        for group in sorted({*in_local, *in_cloud}):
            local_digest, cloud_digest = in_local.get(group, NO_ROWS), in_cloud.get(group, NO_ROWS)
            if group.load_id in self.cloud_only:
                result.cloud_only += cloud_digest.rows
                continue
            result.local += local_digest.rows
            result.cloud += cloud_digest.rows
            if local_digest != cloud_digest:
                result.differing_loads.add(group.load_id)
                self._count_differences(result, part, group, local_digest.rows, cloud_digest.rows)
        if result.cloud_only and part.month is not None:
            slices = -(-(result.local + result.cloud_only) // ROWS_PER_COMPARISON)
            result.restated = sum(self._count_restated(part, slices, number) for number in range(slices))
        return result

    def _count_differences(
        self, result: PartitionResult, part: Partition, group: Group, local_rows: int, cloud_rows: int
    ) -> None:
        if not cloud_rows:
            result.lacking += local_rows
            return
        differences = self._differences(part, group, is_local=local_rows > 0)
        result.lacking += differences.lacking.total()
        result.changed += differences.changed.total()
        result.added += differences.added.total()
        result.unfinished += cloud_rows if group.load_id not in self.loads else 0
        contents = [content for _, content in differences.changed + differences.added]
        result.deletions += self._format_deletions(
            part, group, contents[: max(0, MAX_REPORTED_ROWS - len(result.deletions))]
        )

    def _differences(self, part: Partition, group: Group, *, is_local: bool = True) -> _Differences:
        # Rows of a package that local has not finished count as absent.
        in_local = _rows(self.local, part, group) if is_local else Counter()
        in_cloud = _rows(self.cloud, part, group)
        missing, excess = in_local - in_cloud, in_cloud - in_local
        missing_keys, excess_keys = ({key for key, _ in rows} for rows in (missing, excess))

        def select(rows: Counter[Row], keys: Collection[int], *, is_in: bool) -> Counter[Row]:
            return Counter({row: count for row, count in rows.items() if (row[0] in keys) == is_in})

        return _Differences(
            lacking=select(missing, excess_keys, is_in=False),
            changed=select(excess, missing_keys, is_in=True),
            added=select(excess, missing_keys, is_in=False),
        )

    def _format_deletions(self, part: Partition, group: Group, contents: Sequence[int]) -> list[str]:
        """Statements that delete rows of cloud by their load package and, of a trade, its key."""
        if not contents:
            return []
        columns = ", ".join(part.table.reported_columns)
        sql = f"""
            select distinct toString(tuple({columns})) from {part.source} and {part.condition([group])}
                and {part.table.content_hash} in {{contents:Array(UInt64)}}"""
        rows = sorted(row for (row,) in self.cloud.rows(sql, loads=[group.load_id], contents=list(contents)))
        return [f"  delete from {RAW_DATABASE}.{part.table.name} where ({columns}) = {row}" for row in rows]

    def _count_restated(self, part: Partition, slices: int, number: int) -> int:
        """Trades of one slice of keys whose newest version, in a cloud-only package, differs from local's."""
        cloud_contents = {
            key: content
            for key, (content, load_id) in _newest_versions(self.cloud, part, slices, number).items()
            if load_id in self.cloud_only
        }
        newest = _newest_versions(self.local, part, slices, number) if cloud_contents else {}
        return sum(newest[key][0] != content for key, content in cloud_contents.items() if key in newest)


def _rows(database: PushDatabase, part: Partition, group: Group) -> Counter[Row]:
    hashes = f"{part.table.key_hash}, {part.table.content_hash}"
    sql = f"select {hashes} from {part.source} and {part.condition([group])}"
    return Counter((key, content) for key, content in database.rows(sql, loads=[group.load_id]))


def _newest_versions(
    database: PushDatabase, part: Partition, slices: int, number: int
) -> dict[int, tuple[int, str]]:
    """(hash of the content, finished load package) of the newest version of each trade, by the hash of its key."""
    content = ", ".join(name for name in part.table.column_names if name != "`_dlt_load_id`")
    sql = f"""
        select {part.table.key_hash} as key, argMax(
            (cityHash64(tuple({content})), toString(_dlt_load_id)), toString(_dlt_load_id)
        ) as newest
        from {part.finished_source} and key % {slices} = {number}
        group by key"""
    return dict(database.rows(sql))


def digest(facts: object) -> str:
    """A hash of facts that are the same whenever the same rows are to be inserted."""
    return blake2b(repr(facts).encode(), digest_size=16).hexdigest()
