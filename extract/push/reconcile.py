"""Copy the missing rows of one partition to cloud, then compare both databases."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from extract.clickhouse.settings import RAW_DATABASE
from extract.push.database import TRADES, PushDatabase, RawTable
from extract.push.partitions import Digest, Digests, Group, Partition

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
    `unfinished` of the added rows belong to a package that nobody has finished. `cloud_only` rows belong to packages
    that only cloud has finished; `restated` trades have another content in the newest of these than in local.
    `reported`: SQL tuples of (load package, key) of changed and added rows.
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
    reported: list[str] = field(default_factory=list)
    differing_loads: set[str] = field(default_factory=set)

    @property
    def is_month(self) -> bool:
        return self.label[0].isdigit()

    @property
    def is_equal(self) -> bool:
        return not (self.lacking or self.changed or self.added or self.restated)

    def deletions(self) -> list[str]:
        """Statements that delete the reported rows on cloud; if there are more rows, the next push reports those."""
        table = RawTable(TRADES if self.is_month else self.label, ())
        columns = ", ".join(table.reported_columns)
        return [
            f"  delete from {RAW_DATABASE}.{table.name} where ({columns}) = {row}" for row in self.reported
        ]

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


@dataclass
class _Differences:
    lacking: Counter[Row]
    changed: Counter[Row] = field(default_factory=Counter)
    added: Counter[Row] = field(default_factory=Counter)


class Reconciler:
    """Copies and compares partitions.

    `loads`: packages that local has finished; `cloud_only`: packages that only cloud has finished. With `copies` False
    it only compares. `on_rows` is called with the number of trades that have arrived.
    """

    def __init__(
        self,
        local: PushDatabase,
        cloud: PushDatabase,
        loads: Collection[str],
        cloud_only: Collection[str],
        *,
        copies: bool,
        on_rows: Callable[[int], None],
    ) -> None:
        self.local, self.cloud = local, cloud
        self.loads, self.cloud_only = loads, cloud_only
        self.copies = copies
        self.on_rows = on_rows

    def reconcile(self, part: Partition, only: Collection[str] | None = None) -> PartitionResult:
        """Copy what cloud lacks of `part`, of the load packages in `only` or of all, and compare the result."""
        loads = self.loads if only is None else only
        here = _digests(self.local, part, loads)
        there = _digests(self.cloud, part, only)
        pushed = 0
        if self.copies:
            pushed = self._copy(part, here, there, salt="")
            if pushed:
                there = _digests(self.cloud, part, only)
                # Rows that were pushed before and then deleted by hand: the server ignores their tokens as known.
                if self._copy(part, here, there, salt=f"/{time.time_ns()}"):
                    there = _digests(self.cloud, part, only)
        return self._compare(part, here, there, pushed)

    def _copy(self, part: Partition, here: Digests, there: Digests, salt: str) -> int:
        """Insert the groups that cloud lacks entirely, and single rows of those that it has in part; rows inserted."""
        absent = [group for group in here if group not in there]
        partial = [group for group in here if group in there and there[group] != here[group]]
        with ThreadPoolExecutor(CHUNKS_IN_FLIGHT, thread_name_prefix="push") as pool:
            chunks = part.chunks(here, absent)
            rows = sum(pool.map(lambda chunk: self._copy_chunk(part, here, chunk, salt), chunks))
        return rows + sum(self._copy_missing_rows(part, group, salt) for group in partial)

    def _copy_chunk(self, part: Partition, here: Digests, chunk: Sequence[Group], salt: str) -> int:
        facts = [(*group, *here[group]) for group in chunk]
        rows = sum(here[group].rows for group in chunk)
        self._insert(part, chunk, "", {}, token=f"{digest(facts)}{salt}")
        self._report_rows(part, rows)
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
            self._insert(part, [group], only, {"contents": contents}, token)
            missing -= Counter(batch)
            turn += 1
            self._report_rows(part, len(batch))
        return rows

    def _report_rows(self, part: Partition, rows: int) -> None:
        if part.month is not None:
            self.on_rows(rows)

    def _insert(
        self, part: Partition, groups: Sequence[Group], only: str, parameters: dict[str, Any], token: str
    ) -> None:
        columns = ", ".join(part.table.column_names)
        sql = f"select {columns} from {part.source} and {part.condition(groups)}{only}"
        block = self.local.read(sql, loads=[group.load_id for group in groups], **parameters)
        self.cloud.write(part.table, block, f"push/{part.table.name}/{token}")

    def _compare(self, part: Partition, here: Digests, there: Digests, pushed: int) -> PartitionResult:
        result = PartitionResult(part.label, pushed=pushed)
        for group in sorted({*here, *there}):
            mine, theirs = here.get(group), there.get(group)
            if group.load_id in self.cloud_only:
                result.cloud_only += theirs.rows if theirs else 0
                continue
            result.local += mine.rows if mine else 0
            result.cloud += theirs.rows if theirs else 0
            if mine != theirs:
                result.differing_loads.add(group.load_id)
                self._count_differences(result, part, group, mine, theirs)
        if result.cloud_only and part.month is not None:
            slices = -(-(result.local + result.cloud_only) // ROWS_PER_COMPARISON)
            result.restated = sum(self._count_restated(part, slices, number) for number in range(slices))
        return result

    def _count_differences(
        self,
        result: PartitionResult,
        part: Partition,
        group: Group,
        mine: Digest | None,
        theirs: Digest | None,
    ) -> None:
        if theirs is None:
            result.lacking += mine.rows if mine else 0
            return
        differences = self._differences(part, group, is_local=mine is not None)
        result.lacking += differences.lacking.total()
        result.changed += differences.changed.total()
        result.added += differences.added.total()
        result.unfinished += theirs.rows if group.load_id not in self.loads else 0
        contents = [content for _, content in differences.changed + differences.added]
        result.reported += self._format_rows(
            part, group, contents[: max(0, MAX_REPORTED_ROWS - len(result.reported))]
        )

    def _differences(self, part: Partition, group: Group, *, is_local: bool = True) -> _Differences:
        # Rows of a package that local has not finished count as absent.
        here = _rows(self.local, part, group) if is_local else Counter()
        there = _rows(self.cloud, part, group)
        missing, excess = here - there, there - here
        missing_keys, excess_keys = ({key for key, _ in rows} for rows in (missing, excess))
        differences = _Differences(
            Counter({row: count for row, count in missing.items() if row[0] not in excess_keys})
        )
        for row, count in excess.items():
            (differences.changed if row[0] in missing_keys else differences.added)[row] = count
        return differences

    def _format_rows(self, part: Partition, group: Group, contents: Sequence[int]) -> list[str]:
        """Rows of cloud as SQL tuples: load package and, of a trade, its key."""
        if not contents:
            return []
        sql = f"""
            select distinct toString(tuple({", ".join(part.table.reported_columns)}))
            from {part.source} and {part.condition([group])}
                and {part.table.content_hash} in {{contents:Array(UInt64)}}"""
        rows = self.cloud.rows(sql, loads=[group.load_id], contents=list(contents))
        return sorted(row for (row,) in rows)

    def _count_restated(self, part: Partition, slices: int, number: int) -> int:
        """Trades of one slice of keys whose newest version, in a cloud-only package, differs from local's."""
        theirs = {
            key: content
            for key, (content, load_id) in _newest_versions(self.cloud, part, slices, number).items()
            if load_id in self.cloud_only
        }
        mine = _newest_versions(self.local, part, slices, number) if theirs else {}
        return sum(mine[key][0] != content for key, content in theirs.items() if key in mine)


def _digests(database: PushDatabase, part: Partition, loads: Collection[str] | None) -> Digests:
    digests = part.digests(database)
    return (
        digests if loads is None else {group: digests[group] for group in digests if group.load_id in loads}
    )


def _rows(database: PushDatabase, part: Partition, group: Group) -> Counter[Row]:
    hashes = f"{part.table.key_hash}, {part.table.content_hash}"
    sql = f"select {hashes} from {part.source} and {part.condition([group])}"
    return Counter((key, content) for key, content in database.rows(sql, loads=[group.load_id]))


def _newest_versions(
    database: PushDatabase, part: Partition, slices: int, number: int
) -> dict[int, tuple[int, str]]:
    """(hash of the content, load package) of the newest version of each trade, by the hash of its key."""
    content = ", ".join(name for name in part.table.column_names if name != "`_dlt_load_id`")
    sql = f"""
        select {part.table.key_hash} as key, argMax(
            (cityHash64(tuple({content})), toString(_dlt_load_id)), toString(_dlt_load_id)
        ) as newest
        from {part.source} and key % {slices} = {number}
        group by key"""
    return dict(database.rows(sql))


def digest(facts: object) -> str:
    """A hash of facts that are the same whenever the same rows are to be inserted."""
    return blake2b(repr(facts).encode(), digest_size=16).hexdigest()
