"""The record of runs in `deribit_runs.runs`: when each ran, its time limit, and how it ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

from extract.clickhouse.client import Database
from extract.clickhouse.create import create_missing
from extract.clickhouse.errors import UndefinedRelationError
from extract.clickhouse.settings import RUNS_DATABASE
from extract.clickhouse.statements import load_statements
from extract.errors import TapeError

RUNS = "runs"
_STATEMENTS = load_statements(__file__, "runs.sql")


@contextmanager
def recorded_run(database: Database, holder: str, limit_s: float | None = None) -> Iterator[None]:
    """Record the block as a run of `holder`, once it has ended. `limit_s`: seconds after which it should stop.

    A run that is killed is not recorded. A failure to record it is ignored: what was loaded does not depend on it.
    """
    started_s, error = time.monotonic(), ""
    try:
        yield
    except BaseException as exception:
        error = str(exception) or type(exception).__name__
        raise
    finally:
        values = {
            "ms": round((time.monotonic() - started_s) * 1000),
            "holder": holder,
            "limit_s": limit_s,
            "is_failed": bool(error),
            "error": error[:1000],
        }
        # In a thread, in which the exception of the block is not the context of the database's errors.
        with suppress(TapeError), ThreadPoolExecutor(1) as pool:
            pool.submit(_insert, database, values).result()


def _insert(database: Database, values: dict[str, object]) -> None:
    settings = {"async_insert": 0}
    try:
        database.command(_STATEMENTS["insert_run"], values, settings)
    except UndefinedRelationError:
        create_missing(database, RUNS_DATABASE, {RUNS: _STATEMENTS["create_runs"]})
        database.command(_STATEMENTS["insert_run"], values, settings)
