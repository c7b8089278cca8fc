"""Load packages in the database: delete the rows of unfinished ones, and what no reader needs of finished ones.

A run registers each load package before it loads it (`Lease.register_loads`). A registered package that `_dlt_loads`
does not list with status 0 was never finished: its run was killed, and its rows would be loaded again.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

from extract.clickhouse.client import Database, quote_identifier
from extract.clickhouse.errors import UndefinedRelationError
from extract.clickhouse.finished import LOADS
from extract.clickhouse.lease import create_tables_of_runs
from extract.clickhouse.settings import RAW_DATABASE
from extract.clickhouse.statements import load_statements
from extract.errors import TapeError

STATES_RETAINED = 20
"""Newest states of the pipeline that pruning leaves; dlt's restore query reads all that there are."""
PRUNED_AT_ONCE = 10
"""States above STATES_RETAINED with which it is time to prune."""

_STATEMENTS = load_statements(__file__, "loads.sql")
# A replica that lags behind would report finished packages as unfinished.
_CONSISTENT = {"select_sequential_consistency": 1}
# A replica that is down follows when it is up again.
_WITHOUT_ABSENT_REPLICAS = {
    "lightweight_deletes_sync": 1,
    "mutations_sync": 1,
    "alter_sync": 1,
    "distributed_ddl_output_mode": "none_only_active",
}
_IN_BACKGROUND = {**_WITHOUT_ABSENT_REPLICAS, "mutations_sync": 0}


@dataclass(frozen=True)
class Loads:
    """`newest`: id of the newest finished load package. `states`: rows of `_dlt_pipeline_state`. `tables`: raw tables.

    `unfinished`: packages that were registered and never finished. `deleted`: those whose rows a run has deleted lately,
    and whether that was more than ten minutes ago.
    """

    newest: str | None = None
    states: int = 0
    tables: frozenset[str] = frozenset()
    unfinished: list[str] = field(default_factory=list)
    deleted: list[tuple[str, bool]] = field(default_factory=list)


def delete_unfinished_loads(database: Database) -> Loads:
    """Delete the rows of load packages that were registered and never finished. The caller holds the lease.

    The server may still be inserting rows that a killed run has sent. So later runs delete rows of these packages again,
    the last time in the first run after ten minutes.
    """
    try:
        loads = _read_loads(database)
    except UndefinedRelationError:
        create_tables_of_runs(database)
        loads = _read_loads(database)
    if loads.unfinished or loads.deleted:
        ids = {"ids": loads.unfinished + [load_id for load_id, _ in loads.deleted]}
        where = "where _dlt_load_id in {ids:Array(String)}"
        for name in database.column(_STATEMENTS["tables_of_loads"], None, _CONSISTENT):
            table = f"{RAW_DATABASE}.{quote_identifier(name)}"
            if database.column(f"select 1 from {table} {where} limit 1", ids, _CONSISTENT):
                database.command(f"delete from {table} {where}", ids, _WITHOUT_ABSENT_REPLICAS)
    if loads.deleted and all(was_long_ago for _, was_long_ago in loads.deleted):
        database.command(_STATEMENTS["forget_deleted_loads"], None, _WITHOUT_ABSENT_REPLICAS)
    if loads.unfinished:
        database.command(_STATEMENTS["record_deleted_loads"], {"ids": loads.unfinished})
        database.command(_STATEMENTS["forget_begun_loads"], None, _WITHOUT_ABSENT_REPLICAS)
    return loads


def _read_loads(database: Database) -> Loads:
    try:
        [(newest, states, tables, unfinished, deleted)] = database.rows(
            _STATEMENTS["loads"], None, _CONSISTENT
        )
    except UndefinedRelationError:
        if {LOADS, "_dlt_pipeline_state"} <= set(database.column(_STATEMENTS["tables"], None, _CONSISTENT)):
            raise
        # No run has finished a load package.
        return Loads(
            unfinished=database.column(_STATEMENTS["begun_loads"], None, _CONSISTENT),
            deleted=database.rows(_STATEMENTS["deleted_loads"], None, _CONSISTENT),
        )
    return Loads(newest or None, states, frozenset(tables), sorted(unfinished), deleted)


def prune(database: Database) -> None:
    """Delete old states of the pipeline, covered spans that have grown since, and old claims of the lease.

    The caller holds the lease. Does nothing where the user lacks the rights.
    """
    with suppress(TapeError):
        database.command(_STATEMENTS["delete_claims"], None, _IN_BACKGROUND)
    with suppress(TapeError):
        oldest = database.value(_STATEMENTS["retained_state"], {"retained": STATES_RETAINED}, _CONSISTENT)
        database.command(_STATEMENTS["delete_states"], {"load_id": oldest}, _IN_BACKGROUND)
        database.command(_STATEMENTS["forget_begun_loads"], None, _WITHOUT_ABSENT_REPLICAS)
        if superseded := database.column(_STATEMENTS["superseded_loads"], None, _CONSISTENT):
            database.command(_STATEMENTS["delete_spans"], {"load_ids": superseded}, _IN_BACKGROUND)
