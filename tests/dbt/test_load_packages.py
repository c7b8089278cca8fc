"""What is asked about load packages reads the newest ones only, and still misses none."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from extract.clickhouse.refresh import refresh
from harness import raw_tables
from harness.dbt_project import TABLES, Project
from tests.dbt.test_model_truth import NOON_MS, trade
from tests.support.candle_truth import assert_true

LOADS = {f"176400000{n}.5": [trade("A-PERPETUAL", n, at_ms=NOON_MS + n * 60_000)] for n in (1, 2, 3, 5)}


@pytest.fixture
def recorded(dbt: Project) -> Project:
    """Packages of which a build has recorded that they are consumed."""
    dbt.empty()
    for load_id, trades in LOADS.items():
        raw_tables.load(dbt.client, load_id, trades)
    refresh(dbt.database)
    dbt.run(*TABLES)
    assert records(dbt) == ["1764000005.5 4"]
    return dbt


def records(dbt: Project) -> list[str]:
    rows = dbt.rows(
        "select source_state from deribit.verified_months where model = 'consumed_loads' order by verified_at"
    )
    return [row["source_state"] for row in rows]


def pending(dbt: Project) -> list[str]:
    return [row["load_id"] for row in dbt.rows("select load_id from deribit.pending_loads order by load_id")]


def test_package_that_is_listed_among_old_ones_is_pending(recorded: Project) -> None:
    """`tape push` keeps the ids of packages, which may be older than others that are there already."""
    late = {"1764000004.5": [trade("A-PERPETUAL", 4, at_ms=NOON_MS + 4 * 60_000)]}
    raw_tables.load(recorded.client, "1764000004.5", late["1764000004.5"])
    assert pending(recorded) == ["1764000004.5"]
    assert refresh(recorded.database) == 1
    assert pending(recorded) == []
    assert_true(recorded, LOADS | late)


@pytest.mark.parametrize(
    "loss",
    [
        "delete from deribit.consumed_loads where load_id = '1764000002.5'",
        pytest.param("truncate table deribit.consumed_loads", marks=pytest.mark.slow),
    ],
)
def test_build_completes_consumed_loads(recorded: Project, loss: str) -> None:
    """Although the packages are older than the recorded one."""
    recorded.client.command(loss)
    recorded.run(*TABLES)
    consumed = recorded.rows("select distinct load_id from deribit.consumed_loads order by load_id")
    assert [row["load_id"] for row in consumed] == list(LOADS)
    assert_true(recorded, LOADS)


def test_unchanged_packages_are_recorded_once(recorded: Project) -> None:
    raw_tables.load(recorded.client, "1764000006.5", [])
    refresh(recorded.database)
    recorded.run(*TABLES)
    assert records(recorded) == ["1764000005.5 4"]
    assert pending(recorded) == []


@pytest.mark.slow
def test_rows_read_do_not_grow_with_the_packages(recorded: Project) -> None:
    """Of each table of packages, a statement reads the parts of the index in which the newest ones are."""
    packages = 60_000

    def rows_read(work: Callable[[], object]) -> int:
        recorded.client.command("system flush logs")
        since = recorded.rows("select toString(now64(6)) as at")[0]["at"]
        work()
        recorded.client.command("system flush logs")
        query = (
            "select sum(read_rows) as rows from system.query_log where type = 'QueryFinish' "
            f"and event_time_microseconds > '{since}' and (has(databases, 'deribit') or has(databases, 'deribit_raw'))"
        )
        return int(recorded.rows(query)[0]["rows"])

    def load_one(load_id: str) -> tuple[int, int]:
        """Rows that a refresh and that a build read."""
        raw_tables.load(recorded.client, load_id, [])
        return rows_read(lambda: refresh(recorded.database, [load_id])), rows_read(
            lambda: recorded.must("build")
        )

    few = load_one("1764100000.5")
    for table, columns, values in (
        ("deribit_raw._dlt_loads", "load_id, schema_name, status, inserted_at", ", 'deribit', 0, now64(6)"),
        ("deribit.consumed_loads", "load_id", ""),
    ):
        recorded.client.command(
            f"insert into {table} ({columns}) select concat(toString(1764200000 + number), '.5'){values} "
            f"from numbers({packages})"
        )
    recorded.must("build")
    assert records(recorded)[-1] == f"{1764200000 + packages - 1}.5 {packages + 5}"
    many = load_one("1764300000.5")
    assert many[0] - few[0] < packages
    assert many[1] - few[1] < 8 * packages
