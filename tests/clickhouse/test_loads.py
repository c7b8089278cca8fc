"""Rows of load packages that were never finished are deleted, and what no reader needs of finished ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from extract.clickhouse.client import Database, shared_database
from extract.clickhouse.lease import Lease
from extract.clickhouse.loads import STATES_RETAINED, delete_unfinished_loads, prune
from extract.clickhouse.settings import ClickHouseSettings


class RecordingClient:
    """Passes every call to a real client, and records the settings of queries."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.query_settings: list[object] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def query(self, *arguments: object, settings: object = None, **options: Any) -> object:
        self.query_settings.append(settings)
        return self._client.query(*arguments, settings=settings, **options)


@pytest.fixture
def database(clean_clickhouse: ClickHouseSettings) -> Database:
    return shared_database(clean_clickhouse)


@pytest.fixture
def raw_trades(database: Database) -> Iterator[Callable[[], list[str]]]:
    """Tables as a run creates them, with one row of package 1.1, which is finished, and one of 1.2; the rows' ids."""
    database.command("create database deribit_raw")
    for table, columns in (
        ("trades", "_dlt_load_id String"),
        ("_dlt_loads", "load_id String, status Int64"),
        ("_dlt_pipeline_state", "_dlt_load_id String"),
    ):
        database.command(f"create table deribit_raw.{table} ({columns}) engine = MergeTree order by tuple()")
    database.insert("deribit_raw.trades", [["1.1"], ["1.2"]], ["_dlt_load_id"])
    database.insert("deribit_raw._dlt_loads", [["1.1", 0]], ["load_id", "status"])
    return lambda: database.column("select _dlt_load_id from deribit_raw.trades order by all")


def test_rows_of_unfinished_loads_are_deleted(
    database: Database, raw_trades: Callable[[], list[str]]
) -> None:
    with Lease(database, "one") as lease:
        lease.register_loads(["1.1", "1.2"])
        assert delete_unfinished_loads(database).unfinished == ["1.2"]
        assert raw_trades() == ["1.1"]
        assert delete_unfinished_loads(database).unfinished == [], "the registered loads are cleared"


def test_rows_that_arrive_after_the_deletion_are_deleted_by_a_later_run(
    database: Database, raw_trades: Callable[[], list[str]]
) -> None:
    """The server may still be inserting what a killed run has sent; ten minutes later it cannot be."""
    with Lease(database, "one") as lease:
        lease.register_loads(["1.2"])
        delete_unfinished_loads(database)
        for _ in range(2):
            database.insert("deribit_raw.trades", [["1.2"]], ["_dlt_load_id"])
            assert delete_unfinished_loads(database).unfinished == []
            assert raw_trades() == ["1.1"]
        for minutes, remembered in ((9, 1), (11, 1), (11, 0)):
            database.command("truncate table deribit_runs.deleted_loads")
            if remembered:
                row = f"select '1.2', now64(6) - interval {minutes} minute"
                database.command(f"insert into deribit_runs.deleted_loads {row}")
            database.insert("deribit_raw.trades", [["1.2"]], ["_dlt_load_id"])
            delete_unfinished_loads(database)
            assert raw_trades() == (["1.1"] if remembered else ["1.1", "1.2"])
            left = database.value("select count() from deribit_runs.deleted_loads")
            assert left == (1 if minutes == 9 else 0)


def test_load_that_is_listed_as_incomplete_is_unfinished(
    database: Database, raw_trades: Callable[[], list[str]]
) -> None:
    """Only status 0 in `_dlt_loads` means that all rows of a package are loaded."""
    database.insert("deribit_raw._dlt_loads", [["1.2", 1]], ["load_id", "status"])
    with Lease(database, "one") as lease:
        lease.register_loads(["1.1", "1.2"])
        assert delete_unfinished_loads(database).unfinished == ["1.2"]
    assert raw_trades() == ["1.1"]


def test_rows_are_deleted_where_no_load_was_ever_finished(
    database: Database, raw_trades: Callable[[], list[str]]
) -> None:
    """The first run was killed before it created the table of finished loads."""
    database.command("drop table deribit_raw._dlt_loads sync")
    with Lease(database, "one") as lease:
        lease.register_loads(["1.2"])
        assert delete_unfinished_loads(database).unfinished == ["1.2"]
    assert raw_trades() == ["1.1"]


def test_finished_loads_are_read_from_an_up_to_date_replica(
    database: Database, raw_trades: Callable[[], list[str]]
) -> None:
    """A replica that lags behind would report a finished package as unfinished, and its rows would be deleted."""
    double = RecordingClient(database.client)
    with Lease(database, "one") as lease:
        lease.register_loads(["1.2"])
        delete_unfinished_loads(Database(double, database.settings))
    assert {"select_sequential_consistency": 1} in double.query_settings
    assert all(settings == {"select_sequential_consistency": 1} for settings in double.query_settings)


@pytest.mark.parametrize("name", ["trades where 1 -- ", "a`; drop table trades", "back\\slash`", "`trades`"])
def test_hostile_table_name_is_only_a_name(
    database: Database, raw_trades: Callable[[], list[str]], name: str
) -> None:
    """A table that the loader named like a piece of SQL changes no other table."""
    quoted = "`" + name.replace("\\", "\\\\").replace("`", "``") + "`"
    database.command(
        f"create table deribit_raw.{quoted} (_dlt_load_id String) engine = MergeTree order by tuple()"
    )
    database.command(f"insert into deribit_raw.{quoted} values ('1.1'), ('1.2')")
    with Lease(database, "one") as lease:
        lease.register_loads(["1.2"])
        assert delete_unfinished_loads(database).unfinished == ["1.2"]
    assert raw_trades() == ["1.1"]
    assert database.column(f"select _dlt_load_id from deribit_raw.{quoted}") == ["1.1"]


def test_pruning_leaves_the_newest_states_of_finished_packages(
    database: Database, raw_trades: Callable[[], list[str]]
) -> None:
    """Also those of a newer package that is not finished, which its own run has not completed yet."""
    finished = [f"17000{n:05}.0" for n in range(50)]
    database.insert("deribit_raw._dlt_loads", [[load, 0] for load in finished], ["load_id", "status"])
    states = [*finished, "1700099999.0"]
    database.insert("deribit_raw._dlt_pipeline_state", [[load] for load in states], ["_dlt_load_id"])
    with Lease(database, "one"):
        prune(database)
    sql = "select _dlt_load_id from deribit_raw._dlt_pipeline_state order by all"
    assert eventually(lambda: database.column(sql), states[-STATES_RETAINED - 1 :])


def test_pruning_leaves_the_covered_time_unchanged(
    database: Database, raw_trades: Callable[[], list[str]]
) -> None:
    """Packages whose spans have all grown are deleted; spans of unfinished packages do not count."""
    database.command(
        "create table deribit_raw.coverage (currency String, kind String, covered_from Int64, covered_to Int64, "
        "_dlt_load_id String) engine = MergeTree order by tuple()"
    )
    rows = [
        ("BTC", "option", 0, 10, "1.1"),
        ("BTC", "option", 0, 20, "1.2"),
        ("BTC", "future", 5, 20, "1.2"),
        ("BTC", "option", 0, 30, "1.3"),
        ("BTC", "option", 50, 60, "1.4"),
        ("BTC", "option", 0, 99, "1.5"),
    ]
    columns = ["currency", "kind", "covered_from", "covered_to", "_dlt_load_id"]
    database.insert("deribit_raw.coverage", rows, columns)
    finished = [[load, 0] for load in ("1.2", "1.3", "1.4")]
    database.insert("deribit_raw._dlt_loads", finished, ["load_id", "status"])
    with Lease(database, "one"):
        prune(database)
    sql = "select * from deribit_raw.coverage order by _dlt_load_id, kind"
    assert eventually(lambda: database.rows(sql), [rows[2], *rows[1:2], *rows[3:]])


def eventually(read: Callable[[], list[Any]], expected: list[Any]) -> bool:
    """Whether `read` returns `expected` within 30 s: rows are deleted in the background."""
    deadline_s = time.monotonic() + 30
    while (rows := read()) != expected:
        if time.monotonic() > deadline_s:
            raise AssertionError(f"{rows} instead of {expected}")
        time.sleep(0.05)
    return True
