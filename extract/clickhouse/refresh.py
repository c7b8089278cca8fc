"""Refresh the models after a load: trades, candles and tallies of new load packages, without dbt.

`dbt build` creates the tables and, for each, a view with the SQL of what a portion of load packages adds to it. A
refresh inserts what the queries of these views select, portion by portion, in the order of the view `refresh_plan`, and
finally records the packages as consumed. Every step computes rows anew from trades, so that a step may be repeated: after a
failure, a package that is not recorded is refreshed again, by the next run or by dbt, and two refreshes at once do no
harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from extract.clickhouse.client import Database
from extract.clickhouse.settings import MART_DATABASE
from extract.errors import FinalError

PLAN = f"{MART_DATABASE}.refresh_plan"
LOG = f"{MART_DATABASE}.refresh_log"
FEW_LOADS = 4
"""Packages that are refreshed one by one, without reading how many trades they have."""


@dataclass(frozen=True)
class Step:
    """Insert into `table`, named with its database, what `query` selects for the values of its `parameters`."""

    table: str
    query: str
    parameters: tuple[str, ...]

    @property
    def sql(self) -> str:
        return f"insert into {self.table} {self.query}"


_WRITE_SETTINGS = {
    "max_partitions_per_insert_block": 1000,
    "select_sequential_consistency": 1,
    "insert_deduplicate": 0,
    "async_insert": 0,
    "join_use_nulls": 0,
    "final": 0,
    # Merges and FINAL choose the newest version of a row; choosing while inserting would take a quarter of the time.
    "optimize_on_insert": 0,
}
"""Settings on which result or cost would depend, whatever the profile of the user has."""
_READ_SETTINGS = {"select_sequential_consistency": 1}

_HAS_PLAN = f"select count() from system.tables where concat(database, '.', name) = '{PLAN}'"
_STEPS = f"select table_name, view_name, query, parameters from {PLAN} order by position"
_PENDING = f"select loads from {MART_DATABASE}.pending_portions"
_HAS_PENDING = f"select count() from {MART_DATABASE}.pending_loads"
_CONSUMED = f"select load_id from {MART_DATABASE}.consumed_loads where load_id in {{loads:Array(String)}}"


def refresh(database: Database, new_loads: Sequence[str] = ()) -> int:
    """Refresh the models by the load packages that they have not consumed; returns how many.

    `new_loads` are packages that the caller has just loaded: they need not be searched for among all packages ever
    loaded. Does nothing, and returns 0, in a database without models. Raises FinalError if the view of a table is
    missing, and TapeErrors as `Database` does; what was not refreshed then is refreshed by the next call.
    """
    if not database.value(_HAS_PLAN, settings=_READ_SETTINGS):
        return 0
    steps = _read_steps(database)
    refreshed = 0
    loads = _unconsumed(database, new_loads)
    while portions := [[load] for load in loads] or _pending_portions(database):
        for portion in portions:
            _refresh_portion(database, steps, portion)
            refreshed += len(portion)
        loads = []
    return refreshed


def _read_steps(database: Database) -> list[Step]:
    """The declared steps. Without one of them its table would miss the trades of packages that count as consumed."""
    steps = []
    for table, view, query, parameters in database.rows(_STEPS, settings=_READ_SETTINGS):
        if not query:
            raise FinalError(f"There is no view {view}, which refreshes {table}; run: dbt build")
        steps.append(Step(table, query, tuple(parameters)))
    return steps


def _unconsumed(database: Database, new_loads: Sequence[str]) -> list[str]:
    """Those of a few `new_loads` that are not consumed. Many are planned as portions with all others."""
    if len(new_loads) > FEW_LOADS:
        return []
    consumed = database.column(_CONSUMED, {"loads": list(new_loads)}, _READ_SETTINGS) if new_loads else []
    return sorted(set(new_loads).difference(consumed))


def _pending_portions(database: Database) -> list[list[str]]:
    """Pending packages; planned as portions only if there are some."""
    if not database.value(_HAS_PENDING, settings=_READ_SETTINGS):
        return []
    return database.column(_PENDING, settings=_READ_SETTINGS)


def _refresh_portion(database: Database, steps: Sequence[Step], loads: list[str]) -> None:
    values: dict[str, object] = {"loads": loads}
    for step in steps:
        parameters = {name: values[name] for name in step.parameters}
        database.command(step.sql, parameters, _WRITE_SETTINGS)
        if step.table == LOG:
            values["version"] = database.value(f"select count() from {LOG}", settings=_READ_SETTINGS)
            values.setdefault("touched", values["version"])
