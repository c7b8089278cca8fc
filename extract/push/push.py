"""Push the local database to cloud: first the months with the most missing rows, last the pipeline state."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any

from extract.clickhouse.create import create_missing
from extract.clickhouse.finished import LOADS, unfinished_loads
from extract.clickhouse.lease import Lease
from extract.clickhouse.refresh import refresh
from extract.clickhouse.settings import RAW_DATABASE, clickhouse_settings
from extract.errors import CannotTellError, ProofError, UsageError
from extract.listener import Listener
from extract.pipeline.load import store_state
from extract.pipeline.session import default_holder_id, run_lock
from extract.push import dlt_state
from extract.push.database import RETRIES, TRADES, PushDatabase, RawTable
from extract.push.partitions import (
    CHUNK_LOADS,
    CHUNK_ROWS,
    PUSHED,
    STATE,
    Partition,
    dropped_months,
    finished_loads,
    format_month,
    require_same_columns,
    rows_by_month,
)
from extract.push.reconcile import PartitionResult, Reconciler, digest
from extract.retry import Retrier
from extract.source.tables import COVERAGE, PUSHES, SERIES_TABLES

_SHRINKING = frozenset({COVERAGE.name, SERIES_TABLES["book_summaries"].name})
"""Tables from which whole load packages are deleted in the end."""
Months = dict[int, dict[str, int]]
"""Number of trades by month and load package."""


@dataclass
class PushReport:
    """Result of a push. `parts` in the order in which they were compared.

    `excluded_months`: months that retention has dropped on one side. `packages`: those that local has finished, of
    which cloud does not list `unpublished` as finished. `unfinished`: those of local that are not pushed, because they
    are not finished.
    """

    parts: list[PartitionResult] = field(default_factory=list)
    excluded_months: list[int] = field(default_factory=list)
    packages: int = 0
    unpublished: int = 0
    unfinished: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def months(self) -> list[PartitionResult]:
        return [part for part in self.parts if part.label[0].isdigit()]

    @property
    def trades(self) -> int:
        return sum(month.local for month in self.months)

    @property
    def pushed(self) -> int:
        """Trades that were copied."""
        return sum(month.pushed for month in self.months)

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
            "left_out": [format_month(month) for month in self.excluded_months],
            "seconds": round(self.seconds, 3),
            "partitions": [part.to_json() for part in self.parts],
        }


def push(
    *,
    verify: bool = False,
    listener: Listener | None = None,
    retrier: Retrier | None = None,
    open_lease: Callable[..., Lease] = Lease,
    chunk_rows: int = CHUNK_ROWS,
) -> PushReport:
    """Copy what local has and cloud lacks and compare each partition; with `verify` only compare.

    `listener` receives the number of trades. Raises UsageError if cloud is not configured or holds trades of another
    exchange, CannotTellError if local has nothing, ProofError if the tables have different columns, OutsideError if a
    database fails: what was pushed by then stays, and the next push resumes.
    """
    started_s = time.monotonic()
    cloud_settings, local_settings = clickhouse_settings("cloud"), clickhouse_settings("local")
    retrier = retrier or Retrier(RETRIES)
    with run_lock(), ExitStack() as stack:
        local, cloud = PushDatabase(local_settings, retrier), PushDatabase(cloud_settings, retrier)
        lease = None
        if not verify:
            # A run into cloud, or a push from another machine, would move the cursor meanwhile.
            holder = default_holder_id()
            lease = cloud.retry(lambda: stack.enter_context(open_lease(cloud.connection, holder)))
        report = _Push(local, cloud, listener or Listener(), lease, chunk_rows).run()
    report.seconds = time.monotonic() - started_s
    return report


@dataclass
class _Push:
    """One push. The lease on cloud is held as long as anything is written there; without a lease nothing is.

    `pending`: the months in which rows of a package that is not published yet have still to be copied.
    """

    local: PushDatabase
    cloud: PushDatabase
    listener: Listener
    lease: Lease | None
    chunk_rows: int
    report: PushReport = field(default_factory=PushReport)
    loads: set[str] = field(default_factory=set)
    published: set[str] = field(default_factory=set)
    pending: dict[str, set[int]] = field(default_factory=dict)

    @property
    def copies(self) -> bool:
        return self.lease is not None

    def run(self) -> PushReport:
        if TRADES not in self.local.tables or not (loads := finished_loads(self.local)):
            raise CannotTellError("local has nothing that could be pushed yet; run: dlt pipeline run")
        self.loads = loads
        self._prepare_cloud()
        listed = finished_loads(self.cloud)
        in_local = {
            month: {load: count for load, count in rows.items() if load in loads}
            for month, rows in rows_by_month(self.local).items()
        }
        in_cloud = rows_by_month(self.cloud)
        self._require_same_exchange(in_cloud, listed)
        months = in_local.keys() | in_cloud.keys()
        excluded = (dropped_months(self.local) | dropped_months(self.cloud)) & months
        self.report.excluded_months = sorted(excluded)
        self.published = loads & listed
        self.pending = {
            load: {month for month in in_local if load in in_local[month]} - excluded
            for load in loads - listed
        }
        self.reconciler = Reconciler(
            self.local, self.cloud, loads, listed - loads, self.copies, self.listener.advance
        )
        self._reconcile_all(in_local, in_cloud, months - excluded)
        self.report.packages, self.report.unpublished = len(loads), len(loads - self.published)
        self.report.unfinished = unfinished_loads(self.local.connection)
        return self.report

    def _reconcile_all(self, in_local: Months, in_cloud: Months, months: Collection[int]) -> None:
        lacking = {
            month: _count_lacking(in_local.get(month, {}), in_cloud.get(month, {})) for month in months
        }
        total = sum(sum(in_local[month].values()) for month in months if month in in_local)
        self.listener.start(sum(lacking.values()) if self.copies else total, "trades")
        self._publish()
        for month in sorted(lacking, key=lambda month: (-lacking[month], month)):
            self._reconcile_month(month, in_local.get(month, {}))
        for table in self._small_tables():
            only = self._retained(Partition(table), self.loads) if table.name in _SHRINKING else None
            self.report.parts.append(self.reconciler.reconcile(Partition(table), only))
        self._move_cursor()

    def _retained(self, part: Partition, loads: Collection[str]) -> set[str]:
        """Those of `loads` that have rows in local: runs delete old states and spans, and retention old snapshots."""
        return {group.load_id for group in part.digests(self.local, loads)}

    def _small_tables(self) -> list[RawTable]:
        """Tables besides the trades and the state."""
        names = PUSHED - {TRADES, STATE}
        return [table for name, table in self.local.tables.items() if name in names]

    def _prepare_cloud(self) -> None:
        if self.copies:
            self.schema = dlt_state.stored_schema(self.local.settings)
            dlt_state.create_tables(self.cloud.settings, self.schema, self.local.tables)
            self.cloud.refresh()
            self.cloud.wait_for_earlier_inserts()
        elif not {TRADES, LOADS} <= self.cloud.tables.keys():
            raise ProofError(f"cloud has no {RAW_DATABASE}.{TRADES} yet, so it is not equal; run: tape push")
        require_same_columns(self.local.tables, self.cloud.tables)

    def _require_same_exchange(self, in_cloud: Months, listed: Collection[str]) -> None:
        local_exchange, cloud_exchange = (
            dlt_state.exchange_name(dlt_state.newest_state(database) if STATE in database.tables else None)
            for database in (self.local, self.cloud)
        )
        unknown = {load for rows in in_cloud.values() for load in rows} - self.loads - set(listed)
        if local_exchange != cloud_exchange and (cloud_exchange or unknown):
            raise UsageError(
                f"cloud holds trades of {cloud_exchange or 'a push or run that was never finished'}, which must not be "
                f"mixed with those of {local_exchange} in local: name another database by CLICKHOUSE_CLOUD_HOST, or "
                "another local one by CLICKHOUSE_LOCAL_PORT and TAPE_DIR."
            )

    def _reconcile_month(self, month: int, rows: Mapping[str, int]) -> None:
        size = self.chunk_rows
        buckets = {load: -(-count // size) for load, count in rows.items() if count > size}
        result = self.reconciler.reconcile(Partition(self.local.tables[TRADES], month, buckets, size))
        self.report.parts.append(result)
        if not self.copies:
            self.listener.advance(result.local)
        for load, months in self.pending.items():
            if load not in result.differing_loads:
                months.discard(month)
        self._publish()
        if self.copies and result.is_equal and result.local:
            create_missing(self.local.connection, RAW_DATABASE, {PUSHES.name: PUSHES.create_sql()})
            proof = {
                "target": self.cloud.settings.mode,
                "partition_month": result.label,
                "trades": result.local,
                "proven_at": datetime.now(UTC),
            }
            self.local.insert(PUSHES.name, proof, token=f"{PUSHES.name}/{time.time_ns()}")

    def _publish(self) -> None:
        """List the packages on cloud as finished that are complete there, in the order of local.

        Coverage of a package covers the trades of all packages before it, so none is listed before an incomplete one.
        """
        ready = self._next_packages({load for load, months in self.pending.items() if not months})
        if not self.lease or not ready:
            return
        self.lease.require_held()
        differing: set[str] = set()
        for table in self._small_tables():
            differing |= self.reconciler.reconcile(Partition(table), only=ready).differing_loads
        ready = self._next_packages(ready - differing)
        # The second attempt has a new token, for packages that were listed before and then deleted by hand.
        for salt in ("", f"/{time.time_ns()}"):
            if missing := ready - finished_loads(self.cloud):
                self._list_loads(sorted(missing), salt)
        refresh(self.cloud.connection, sorted(ready))
        self.published |= ready
        self.pending = {load: months for load, months in self.pending.items() if load not in ready}

    def _next_packages(self, complete: Collection[str]) -> set[str]:
        """Those of `complete` that come before the first package that is neither complete nor published."""
        known = {*complete, *self.published}
        return set(takewhile(known.__contains__, sorted(self.loads))) - self.published

    def _list_loads(self, loads: list[str], salt: str) -> None:
        table = self.local.tables[LOADS]
        columns = ", ".join(table.column_names)
        source = f"{table.identifier} where status = 0 and load_id in {{loads:Array(String)}}"
        for first in range(0, len(loads), CHUNK_LOADS):
            chunk = loads[first : first + CHUNK_LOADS]
            block = self.local.read(f"select {columns} from {source} limit 1 by load_id", loads=chunk)
            self.cloud.write(table, block, f"push/{LOADS}/{digest(chunk)}{salt}")

    def _move_cursor(self) -> None:
        """Copy the states up to the first package that cloud lacks; then merge them with the state of cloud's runs."""
        if STATE not in self.local.tables:
            return
        complete = set(takewhile(lambda load: load in self.published, sorted(self.loads)))
        part = Partition(self.local.tables[STATE])
        self.report.parts.append(self.reconciler.reconcile(part, only=self._retained(part, complete)))
        if not self.lease:
            return
        cloud_only = dlt_state.newest_state(self.cloud, excluding=self.loads)
        local_state = dlt_state.newest_state(self.local, among=complete)
        effective = dlt_state.newest_state(self.cloud)
        if not (cloud_only and local_state and effective):
            return
        merged = dlt_state.merge_states(dlt_state.merge_states(effective, local_state), cloud_only)
        if merged != dlt_state.merge_states(effective, effective):
            self.lease.require_held()  # another run that has taken over would have a newer state
            store_state(self.cloud.settings, merged)


def _count_lacking(in_local: Mapping[str, int], in_cloud: Mapping[str, int]) -> int:
    """The least number of rows of a month that cloud lacks."""
    return sum(max(0, count - in_cloud.get(load, 0)) for load, count in in_local.items())
