"""Load packages of an export: those that are finished, and the models that have to consume them first."""

from __future__ import annotations

import time
from collections.abc import Collection

from extract.clickhouse.client import Database
from extract.clickhouse.finished import CONSISTENT, LOADS, describe_waiting
from extract.clickhouse.statements import render
from extract.errors import CannotTellError
from extract.export.manifest import NO_PACKAGES, LoadPackages
from extract.export.parts import STATEMENTS
from extract.source.tables import loaded_relation

POLL_S = 0.5


def finished_packages(database: Database, raw: Collection[str]) -> LoadPackages:
    """The finished load packages of a database with the raw tables `raw`."""
    if LOADS not in raw:
        return NO_PACKAGES
    [row] = database.rows(_sql("load_packages", raw), None, CONSISTENT)
    return LoadPackages(*row)


def wait_for_models(database: Database, raw: Collection[str], marts: Collection[str], wait_s: float) -> None:
    """Wait until the models have consumed the load packages that are finished now.

    Raises CannotTellError if the models are not built, or have not consumed them after `wait_s` seconds.
    """
    if not {"trades", "consumed_loads"} <= set(marts):
        raise CannotTellError("The models are not built yet; run: dbt build --target local")
    deadline_s = time.monotonic() + wait_s
    waiting = _pending(database, raw)
    while waiting:
        if time.monotonic() > deadline_s:
            raise CannotTellError(
                f"The models are not up to date: {describe_waiting(len(waiting))}; run: dbt build"
            )
        time.sleep(POLL_S)
        waiting &= _pending(database, raw)


def have_trades_moved(database: Database, marts: Collection[str], since_us: int) -> bool:
    """Whether a load package at or after a time, in µs since 1970, moved a trade from one month to another."""
    if "trade_versions" not in marts:
        return False
    return bool(database.value(STATEMENTS["moved_trades"], {"since_us": since_us}, CONSISTENT))


def _pending(database: Database, raw: Collection[str]) -> set[str]:
    return set(database.column(_sql("loads_pending", raw), None, CONSISTENT))


def _sql(statement: str, raw: Collection[str]) -> str:
    return render(STATEMENTS[statement], lambda name: loaded_relation(name, raw))
