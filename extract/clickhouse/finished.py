"""Finished load packages: the only definition of what counts as loaded, for every reader of the raw tables.

The files of a package are inserted independently of each other, and `_dlt_loads` lists the package last. Rows of a
package that is not listed there with status 0 may be only a part of it, and may be deleted again.
"""

from __future__ import annotations

from collections.abc import Sequence

from extract.clickhouse.client import Database, quote_identifier
from extract.clickhouse.settings import RAW_DATABASE, RUNS_DATABASE

LOADS = "_dlt_loads"
LOAD_ID = "_dlt_load_id"
LARGE_TABLE = "trades"
BEGUN_LOADS = "begun_loads"
"""Table of the lease with the load packages that a run was about to load."""
DELETED_LOADS = "deleted_loads"
"""Table of the lease with the unfinished load packages whose rows a later run has deleted."""

FINISHED_LOADS = f"(select * from {RAW_DATABASE}.{LOADS} where status = 0)"
"""A relation with a row for each finished load package."""

CONSISTENT = {"select_sequential_consistency": 1}
"""Settings with which a replica answers after it has caught up: it may list a package before it has its rows."""

_TABLES_OF_LOADS = f"""
select distinct table
from system.columns
where database = '{RAW_DATABASE}' and (name = '{LOAD_ID}' or table = '{LOADS}')
    or database = '{RUNS_DATABASE}' and table = '{BEGUN_LOADS}'"""


def finished_rows(table: str) -> str:
    """A relation with the rows of a raw table that belong to finished load packages.

    Its memory is 30 bytes a package for the trades, and less than a set of the table's own load ids for other tables,
    which are small. (Two of a million packages have the same hash with a probability of 1 in 40 million.)
    """
    if table == LARGE_TABLE:
        condition = f"cityHash64({LOAD_ID}) in (select cityHash64(load_id) from {FINISHED_LOADS})"
    else:
        own = f"select {LOAD_ID} from {RAW_DATABASE}.{table}"
        condition = f"{LOAD_ID} in (select load_id from {FINISHED_LOADS} where load_id in ({own}))"
    return f"(select * from {RAW_DATABASE}.{table} where {condition})"


def recent_trades() -> str:
    """A relation as that of `finished_rows`, with the trades of packages from the parameter `load_id` on.

    Of all packages ever loaded it reads only those, by the index.
    """
    since = "{load_id:String}"
    is_finished = f"in (select cityHash64(load_id) from {FINISHED_LOADS} where load_id >= {since})"
    return (
        f"(select * from {RAW_DATABASE}.{LARGE_TABLE} "
        f"where {LOAD_ID} >= {since} and cityHash64({LOAD_ID}) {is_finished})"
    )


def unfinished_loads(database: Database) -> list[str]:
    """Ids of the load packages that are not finished, ascending: they have rows, or a run has registered them.

    Registered packages are seen where this user may read the table of the lease.
    """
    tables = set(database.column(_TABLES_OF_LOADS))
    sources = [
        f"select distinct {LOAD_ID} as load_id from {RAW_DATABASE}.{quote_identifier(table)}"
        for table in sorted(tables - {LOADS, BEGUN_LOADS})
    ]
    if BEGUN_LOADS in tables:
        sources.append(f"select distinct load_id from {RUNS_DATABASE}.{BEGUN_LOADS}")
    if not sources:
        return []
    is_finished = f"cityHash64(load_id) in (select cityHash64(load_id) from {FINISHED_LOADS})"
    where = f" where not {is_finished}" if LOADS in tables else ""
    sql = f"select distinct load_id from ({' union all '.join(sources)}){where} order by load_id"
    return database.column(sql, None, CONSISTENT)


def describe_waiting(loads: int) -> str:
    """A clause about load packages that the models have not consumed."""
    return f"{loads:,} load package{' waits' if loads == 1 else 's wait'} for the models"


def describe_unfinished(load_ids: Sequence[str]) -> str:
    """A sentence about load packages that are not finished."""
    what, it = (
        ("1 load package is", "it")
        if len(load_ids) == 1
        else (f"{len(load_ids):,} load packages are", "them")
    )
    return (
        f"{what} not finished, and nothing of {it} counts as loaded: a run is loading now, or it was interrupted and "
        f"the next `dlt pipeline run` loads or deletes {it}."
    )
