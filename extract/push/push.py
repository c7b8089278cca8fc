"""One push: months by the largest gap, packages that are whole, the cursor last; each part proven when it is there."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any

from extract.cli.progress_bar import ProgressBar
from extract.clickhouse.client import Database
from extract.clickhouse.lease import Lease
from extract.clickhouse.settings import RAW_DATABASE, clickhouse_settings
from extract.errors import CannotTellError, ProofError, UsageError
from extract.pipeline.session import default_holder_id, run_lock
from extract.push import dlt_state
from extract.push.database import PushDatabase
from extract.push.partitions import (
    CHUNK_LOADS,
    CHUNK_ROWS,
    LOADS,
    NOT_PUSHED,
    STATE,
    TRADES,
    Part,
    RawTable,
    dropped_months,
    finished_loads,
    require_same,
    rows_by_month,
)
from extract.push.reconcile import PartResult, Reconciler, digest
from extract.source.tables import PUSHES

Months = dict[int, dict[str, int]]
"""Rows by month and load package."""


@dataclass
class PushReport:
    """What a push came to. `parts` in the order in which they were proven; `excluded_months`: months dropped by retention.

    `unpublished`: packages that local has finished and cloud does not list as finished.
    """

    parts: list[PartResult] = field(default_factory=list)
    excluded_months: list[int] = field(default_factory=list)
    packages: int = 0
    unpublished: int = 0
    seconds: float = 0.0

    @property
    def trades(self) -> int:
        return sum(part.local for part in self.months)

    @property
    def pushed(self) -> int:
        return sum(part.pushed for part in self.months)

    @property
    def months(self) -> list[PartResult]:
        return [part for part in self.parts if part.label[0].isdigit()]

    @property
    def is_equal(self) -> bool:
        return not self.unpublished and all(part.is_equal for part in self.parts)

    def to_json(self) -> dict[str, Any]:
        return {
            "equal": self.is_equal,
            "trades": self.trades,
            "pushed": self.pushed,
            "packages": self.packages,
            "packages_not_visible": self.unpublished,
            "left_out": [f"{month // 100}-{month % 100:02}" for month in self.excluded_months],
            "seconds": round(self.seconds, 3),
            "partitions": [part.to_json() for part in self.parts],
        }


def push(*, verify: bool = False, tally: ProgressBar | None = None) -> PushReport:
    """Copies what local has and cloud lacks and proves each part; with `verify` only proves.

    Raises UsageError where cloud is not configured or holds another exchange's trades, CannotTellError where local has
    nothing, ProofError where the tables are not the same, OutsideError when a part outside failed: what was pushed
    until then stays, and the next push goes on from there.
    """
    started_s = time.monotonic()
    cloud_settings, local_settings = clickhouse_settings("cloud"), clickhouse_settings("local")
    with run_lock(), tally or ProgressBar() as tally:
        local, cloud = PushDatabase(local_settings), PushDatabase(cloud_settings)
        with ExitStack() as stack:
            if not verify:
                # A run into cloud, or a push from another machine, would move the cursor meanwhile.
                lease = cloud.with_retries(
                    lambda: stack.enter_context(
                        Lease(Database(cloud.client, cloud_settings), default_holder_id())
                    )
                )
            report = _Push(local, cloud, tally, None if verify else lease).run()
    report.seconds = time.monotonic() - started_s
    return report


class _Push:
    """`lease` on cloud is held for as long as anything is written there; without one nothing is."""

    def __init__(
        self, local: PushDatabase, cloud: PushDatabase, tally: ProgressBar, lease: Lease | None
    ) -> None:
        self.local, self.cloud, self.tally, self.lease = local, cloud, tally, lease
        self.copies = lease is not None
        self.report = PushReport()
        self.loads: set[str] = set()
        self.visible: set[str] = set()
        # Months in which each package that is not visible on cloud yet has still to arrive.
        self.waiting: dict[str, set[int]] = {}

    def run(self) -> PushReport:
        if TRADES not in self.local.tables or not (loads := finished_loads(self.local)):
            raise CannotTellError("local has nothing that could be pushed yet; run: dlt pipeline run")
        self.loads = loads
        self._prepare_cloud()
        listed = finished_loads(self.cloud)
        here = {month: _only(rows, loads) for month, rows in rows_by_month(self.local).items()}
        there = rows_by_month(self.cloud)
        self._refuse_another_exchange(there, listed)
        excluded_months = (dropped_months(self.local) | dropped_months(self.cloud)) & (
            here.keys() | there.keys()
        )
        self.report.excluded_months = sorted(excluded_months)
        self.visible = loads & listed
        self.waiting = {
            load: {m for m in here if load in here[m]} - excluded_months for load in loads - self.visible
        }
        self.settling = Reconciler(
            self.local, self.cloud, loads, listed - loads, copies=self.copies, on_rows=self.tally.add
        )
        self._settle_all(here, there, (here.keys() | there.keys()) - excluded_months)
        self.report.packages, self.report.unpublished = len(loads), len(loads - self.visible)
        return self.report

    def _settle_all(self, here: Months, there: Months, months: Collection[int]) -> None:
        gaps = {month: _gap(here.get(month, {}), there.get(month, {})) for month in months}
        held = sum(sum(here[month].values()) for month in months if month in here)
        self.tally.start(sum(gaps.values()) if self.copies else held, "trades")
        self._publish()
        for month in sorted(gaps, key=lambda month: (-gaps[month], month)):
            self._month(month, here.get(month, {}))
        for table in self._small_tables():
            self.report.parts.append(self.settling.reconcile(Part(table, None, {})))
        self._move_cursor()

    def _small_tables(self) -> list[RawTable]:
        """All that is pushed beside trades and cursor."""
        return [t for name, t in self.local.tables.items() if name not in {*NOT_PUSHED, TRADES, STATE}]

    def _prepare_cloud(self) -> None:
        if self.copies:
            self.schema = dlt_state.stored_schema(self.local.settings)
            dlt_state.make_tables(self.cloud.settings, self.schema, self.local.tables)
            self.cloud.refresh()
            self.cloud.wait_for_earlier_writes()
        elif not {TRADES, LOADS} <= self.cloud.tables.keys():
            raise ProofError(f"cloud has no {RAW_DATABASE}.{TRADES} yet, so it is not equal; run: tape push")
        require_same(self.local.tables, self.cloud.tables)

    def _refuse_another_exchange(self, there: Months, listed: Collection[str]) -> None:
        ours, theirs = (
            dlt_state.exchange_of(dlt_state.newest_state(side) if STATE in side.tables else None)
            for side in (self.local, self.cloud)
        )
        unknown = {load for rows in there.values() for load in rows} - self.loads - set(listed)
        if ours != theirs and (theirs or unknown):
            raise UsageError(
                f"cloud holds trades of {theirs or 'a push or run that was never finished'}, and local's, of {ours}, must "
                "not be mixed with them: name another database by CLICKHOUSE_CLOUD_HOST, or another local one by "
                "CLICKHOUSE_LOCAL_PORT and TAPE_DIR."
            )

    def _month(self, month: int, rows: Mapping[str, int]) -> None:
        cuts = {load: -(-count // CHUNK_ROWS) for load, count in rows.items() if count > CHUNK_ROWS}
        result = self.settling.reconcile(Part(self.local.tables[TRADES], month, cuts))
        self.report.parts.append(result)
        if not self.copies:
            self.tally.add(result.local)
        for load, months in self.waiting.items():
            if load not in result.differing_loads:
                months.discard(month)
        self._publish()
        if self.copies and result.is_equal and result.local:
            record_proof(self.local, self.cloud.name, result)

    def _publish(self) -> None:
        """Lists packages as finished on cloud that have just come to be whole there: first all rows, then that."""
        ready = {load for load, months in self.waiting.items() if not months}
        if not self.lease or not ready:
            return
        self.lease.require_held()
        for table in self._small_tables():
            ready -= self.settling.reconcile(Part(table, None, {}), only=ready).differing_loads
        for salt in ("", f"/{time.time_ns()}"):
            if missing := ready - finished_loads(self.cloud):
                self._list(sorted(missing), salt)
        self.visible |= ready
        self.waiting = {load: months for load, months in self.waiting.items() if load not in ready}

    def _list(self, loads: list[str], salt: str) -> None:
        columns = self.local.tables[LOADS].names
        source = f"{RAW_DATABASE}.{LOADS} where status = 0 and load_id in {{loads:Array(String)}}"
        sql = f"select {', '.join(columns)} from {source} limit 1 by load_id"
        for first in range(0, len(loads), CHUNK_LOADS):
            some = loads[first : first + CHUNK_LOADS]
            block = self.local.read(sql, loads=some)
            self.cloud.write(LOADS, columns, block, f"push/{LOADS}/{digest(some)}{salt}")

    def _move_cursor(self) -> None:
        """The state of each package before which none is lacking; then, beside one of cloud's own, the union of both."""
        if STATE not in self.local.tables:
            return
        whole = set(takewhile(lambda load: load in self.visible, sorted(self.loads)))
        part = Part(self.local.tables[STATE], None, {})
        self.report.parts.append(self.settling.reconcile(part, only=whole))
        if not self.lease:
            return
        own = dlt_state.newest_state(self.cloud, but=self.loads)
        ours = dlt_state.newest_state(self.local, among=whole)
        effective = dlt_state.newest_state(self.cloud)
        if not (own and ours and effective):
            return
        both = dlt_state.merge_states(dlt_state.merge_states(effective, ours), own)
        is_known = both["sources"] == dlt_state.merge_states(effective, effective)["sources"]
        # A pipeline of cloud's own takes a state for newer by its version alone.
        if not is_known or effective["_state_version"] < own["_state_version"]:
            self.lease.require_held()  # a run that took over meanwhile has a newer one
            dlt_state.write_state(self.cloud, both, self.schema)


def record_proof(local: PushDatabase, target: str, month: PartResult) -> None:
    """Writes down in local that a month was proven to be the same in `target`."""
    local.command(PUSHES.create_sql())
    row = {
        "target": target,
        "partition_month": month.label,
        "trades": month.local,
        "proven_at": datetime.now(UTC),
    }
    local.insert(PUSHES.name, row, token=f"{PUSHES.name}/{time.time_ns()}")


def _only(rows: Mapping[str, int], loads: Collection[str]) -> dict[str, int]:
    return {load: count for load, count in rows.items() if load in loads}


def _gap(here: Mapping[str, int], there: Mapping[str, int]) -> int:
    """How many rows cloud lacks of a month at least."""
    return sum(max(0, count - there.get(load, 0)) for load, count in here.items())
