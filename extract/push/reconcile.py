"""One part of the data: what cloud lacks of it is copied, and what it then comes to on both sides is compared."""

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
from extract.push.partitions import Digest, Digests, Group, Part
from extract.push.restated import restated

IN_FLIGHT = 3
"""Chunks read and inserted side by side; each is in memory as long as it takes, compressed."""
ROWS_A_REPAIR = 5_000
NAMED = 5
"""Rows named of each kind; the rest is counted."""

Row = tuple[int, int]
"""(hash of the key, hash of the content)."""


@dataclass
class PartResult:
    """One part after the push. Of rows of the packages that local has finished: `lacking` on cloud, `changed` there.

    `added` lie on cloud under such a package, or, those `unfinished`, under one that nobody finished. `own` were brought
    by finished packages of cloud's alone; `restated` trades read otherwise in the newest of these than here.
    `named`: SQL tuples of (load package, key) of changed and added rows.
    """

    label: str
    local: int = 0
    cloud: int = 0
    own: int = 0
    pushed: int = 0
    lacking: int = 0
    changed: int = 0
    added: int = 0
    restated: int = 0
    unfinished: int = 0
    named: list[str] = field(default_factory=list)
    differing_loads: set[str] = field(default_factory=set)

    @property
    def is_equal(self) -> bool:
        return not (self.lacking or self.changed or self.added or self.restated)

    def deletions(self) -> list[str]:
        """Statements that take from cloud the rows named; where there are more of them, the next push names those."""
        table = f"{RAW_DATABASE}.{TRADES if self.label[0].isdigit() else self.label}"
        names = ", ".join(RawTable(TRADES, ()).naming) if table.endswith(TRADES) else "_dlt_load_id"
        return [f"  delete from {table} where ({names}) = {name}" for name in self.named]

    def to_json(self) -> dict[str, Any]:
        names = ("local", "cloud", "own", "pushed", "lacking", "changed", "added", "restated")
        return {"partition": self.label, "equal": self.is_equal} | {
            name: getattr(self, name) for name in names
        }


@dataclass
class _Differences:
    lacking: Counter[Row] = field(default_factory=Counter)
    changed: Counter[Row] = field(default_factory=Counter)
    added: Counter[Row] = field(default_factory=Counter)


class Reconciler:
    """Copies and compares parts. `loads`: packages that local has finished; `own`: those that cloud alone has.

    `copies` False only compares. `on_rows` hears how many trades have arrived.
    """

    def __init__(
        self,
        local: PushDatabase,
        cloud: PushDatabase,
        loads: Collection[str],
        own: Collection[str],
        *,
        copies: bool,
        on_rows: Callable[[int], None],
    ) -> None:
        self.local, self.cloud = local, cloud
        self.loads, self.own = loads, own
        self.copies = copies
        self.on_rows = on_rows

    def reconcile(self, part: Part, only: Collection[str] | None = None) -> PartResult:
        """Copies what cloud lacks of `part`, of the packages in `only` or of all, and proves what came of it."""
        loads = self.loads if only is None else only
        here = self._digests(self.local, part, loads)
        there = self._digests(self.cloud, part, only)
        pushed = 0
        if self.copies:
            pushed = self._copy(part, here, there, salt="")
            if pushed:
                there = self._digests(self.cloud, part, only)
                # Rows that came once, were deleted by hand and come again: the server takes them for known.
                if self._copy(part, here, there, salt=f"/{time.time_ns()}"):
                    there = self._digests(self.cloud, part, only)
        return self._result(part, here, there, pushed)

    @staticmethod
    def _digests(side: PushDatabase, part: Part, loads: Collection[str] | None) -> Digests:
        found = part.digests(side)
        if loads is None:
            return found
        return {group: each for group, each in found.items() if group.load_id in loads}

    def _copy(self, part: Part, here: Digests, there: Digests, salt: str) -> int:
        """Rows inserted: groups that cloud has not at all, and single rows of those that it has in part."""
        absent = [group for group in here if group not in there]
        partial = [group for group in here if group in there and there[group] != here[group]]
        with ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="push") as pool:
            copied = pool.map(lambda chunk: self._chunk(part, here, chunk, salt), part.chunks(here, absent))
            rows = sum(copied)
        for group in partial:
            rows += self._missing_rows(part, group, salt)
        return rows

    def _chunk(self, part: Part, here: Digests, chunk: Sequence[Group], salt: str) -> int:
        facts = [(*group, *here[group]) for group in chunk]
        rows = sum(here[group].rows for group in chunk)
        self._insert(part, chunk, "", {}, token=f"{digest(facts)}{salt}")
        self._report_rows(part, rows)
        return rows

    def _report_rows(self, part: Part, rows: int) -> None:
        if part.month is not None:
            self.on_rows(rows)

    def _missing_rows(self, part: Part, group: Group, salt: str) -> int:
        left = self._differences(part, group).lacking
        rows = left.total()
        turn = 0
        while left:
            some = sorted(left)[:ROWS_A_REPAIR]
            contents = [content for _, content in some]
            # A row that is missing twice comes in two turns.
            only = f" and {part.table.content_hash} in {{contents:Array(UInt64)}} limit 1 by {part.table.content_hash}"
            self._insert(part, [group], only, {"contents": contents}, f"{digest([group, some, turn])}{salt}")
            left -= Counter(some)
            turn += 1
            self._report_rows(part, len(some))
        return rows

    def _insert(
        self, part: Part, groups: Sequence[Group], only: str, parameters: dict[str, Any], token: str
    ) -> None:
        columns = ", ".join(part.table.names)
        sql = f"select {columns} from {part.source} and {part.condition(groups)}{only}"
        block = self.local.read(sql, loads=[group.load_id for group in groups], **parameters)
        self.cloud.write(part.table.name, part.table.names, block, f"push/{part.table.name}/{token}")

    def _result(self, part: Part, here: Digests, there: Digests, pushed: int) -> PartResult:
        result = PartResult(part.label, pushed=pushed)
        for group in sorted({*here, *there}):
            mine, theirs = here.get(group), there.get(group)
            if group.load_id in self.own:
                result.own += theirs.rows if theirs else 0
                continue
            result.local += mine.rows if mine else 0
            result.cloud += theirs.rows if theirs else 0
            if mine != theirs:
                result.differing_loads.add(group.load_id)
                self._count(result, part, group, mine, theirs)
        if result.own and part.month is not None:
            result.restated = restated(self.local, self.cloud, part, self.own, result.local + result.own)
        return result

    def _count(
        self, result: PartResult, part: Part, group: Group, mine: Digest | None, theirs: Digest | None
    ) -> None:
        """What differs in one group. One that a side has not at all needs no second look."""
        if theirs is None:
            result.lacking += mine.rows if mine else 0
            return
        found = self._differences(part, group, is_here=mine is not None)
        result.lacking += found.lacking.total()
        result.changed += found.changed.total()
        result.added += found.added.total()
        result.unfinished += theirs.rows if group.load_id not in self.loads else 0
        contents = [content for _, content in found.changed + found.added]
        result.named += self._names(part, group, contents[: max(0, NAMED - len(result.named))])

    def _differences(self, part: Part, group: Group, *, is_here: bool = True) -> _Differences:
        # What local has not finished counts as not there.
        here = self._rows(self.local, part, group) if is_here else Counter()
        there = self._rows(self.cloud, part, group)
        missing, excess = here - there, there - here
        found = _Differences()
        excess_keys = {key for key, _ in excess}
        missing_keys = {key for key, _ in missing}
        found.lacking = Counter({row: n for row, n in missing.items() if row[0] not in excess_keys})
        for row, count in excess.items():
            (found.changed if row[0] in missing_keys else found.added)[row] = count
        return found

    @staticmethod
    def _rows(side: PushDatabase, part: Part, group: Group) -> Counter[Row]:
        sql = f"select {part.table.key_hash}, {part.table.content_hash} from {part.source} and {part.condition([group])}"
        return Counter((key, content) for key, content in side.rows(sql, loads=[group.load_id]))

    def _names(self, part: Part, group: Group, contents: Sequence[int]) -> list[str]:
        """Rows of cloud as SQL tuples: load package and, of a trade, its key."""
        if not contents:
            return []
        named = ", ".join(part.table.naming)
        sql = f"""
            select distinct toString(tuple({named})) from {part.source} and {part.condition([group])}
                and {part.table.content_hash} in {{contents:Array(UInt64)}}"""
        rows = self.cloud.rows(sql, loads=[group.load_id], contents=list(contents))
        return sorted(name for (name,) in rows)


def digest(facts: object) -> str:
    """Of facts that are the same whenever the same rows are to be inserted."""
    return blake2b(repr(facts).encode(), digest_size=16).hexdigest()
