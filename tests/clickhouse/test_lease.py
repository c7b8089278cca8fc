"""A lease admits one run at a time to a database, and rows of runs that were killed are deleted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import OperationalError

from extract.clickhouse.client import Database, shared_database
from extract.clickhouse.lease import LEASE_S, AnotherRunError, Lease, delete_unfinished_loads
from extract.clickhouse.settings import ClickHouseSettings
from extract.errors import OutsideError


class ClientDouble:
    """Passes every call to a real client; `before_claim` runs first for each claim, `query_settings` are recorded."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.before_claim: Callable[[], None] = lambda: None
        self.query_settings: list[object] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def command(self, sql: str, *arguments: object, **options: Any) -> object:
        if sql.startswith("insert into deribit_runs.leases"):
            self.before_claim()
        return self._client.command(sql, *arguments, **options)

    def query(self, *arguments: object, settings: object = None, **options: Any) -> object:
        self.query_settings.append(settings)
        return self._client.query(*arguments, settings=settings, **options)


@pytest.fixture
def database(clean_clickhouse: ClickHouseSettings) -> Database:
    return shared_database(clean_clickhouse)


@pytest.fixture
def double(database: Database) -> ClientDouble:
    return ClientDouble(database.client)


@pytest.fixture
def doubled(database: Database, double: ClientDouble) -> Database:
    """`database` with `double` as its client."""
    return Database(double, database.settings)


@pytest.fixture
def raw_trades(database: Database) -> Iterator[Callable[[], list[str]]]:
    """Tables as a run creates them, with one row of package 1.1, which is finished, and one of 1.2; the rows' ids."""
    database.command("create database deribit_raw")
    for table, columns in (
        ("trades", "_dlt_load_id String"),
        ("_dlt_loads", "load_id String, status Int64"),
    ):
        database.command(f"create table deribit_raw.{table} ({columns}) engine = MergeTree order by tuple()")
    database.insert("deribit_raw.trades", [["1.1"], ["1.2"]], ["_dlt_load_id"])
    database.insert("deribit_raw._dlt_loads", [["1.1", 0]], ["load_id", "status"])
    return lambda: database.column("select _dlt_load_id from deribit_raw.trades order by all")


def test_lease_is_renewed_while_its_run_lives_and_expires_after_a_kill(database: Database) -> None:
    """A lease outlives its first term by renewal; without renewal another holder gets it after that term."""
    with Lease(database, "one", lease_s=0.8, renew_every_s=0.2):
        time.sleep(1.2)
        with pytest.raises(AnotherRunError), Lease(database, "two"):
            pass
    with Lease(database, "killed", lease_s=0.8):
        with pytest.raises(AnotherRunError), Lease(database, "two"):
            pass
        time.sleep(1)
        with Lease(database, "two") as two:
            assert not two.resumes_own_run


def test_released_lease_is_free_at_once(database: Database) -> None:
    with Lease(database, "one"):
        pass
    with Lease(database, "two") as two:
        assert not two.resumes_own_run
    with Lease(database, "two") as again:
        assert again.resumes_own_run


def test_run_killed_before_its_first_renewal_is_a_former_holder(database: Database) -> None:
    """Its packages may be loaded already, so the next holder does not resume its own run."""
    with Lease(database, "killed", lease_s=0.5):
        time.sleep(0.7)
        with Lease(database, "two") as two:
            assert not two.resumes_own_run


def test_refused_run_is_not_a_former_holder(database: Database) -> None:
    """It has loaded nothing."""
    with Lease(database, "one"), pytest.raises(AnotherRunError), Lease(database, "refused"):
        pass
    with Lease(database, "one") as again:
        assert again.resumes_own_run


def test_refusal_names_the_holder_and_the_time_left(database: Database) -> None:
    with (
        Lease(database, "lambda increment"),
        pytest.raises(AnotherRunError, match=r"\(lambda increment\).* its lease expires in (89|90) s"),
        Lease(database, "two"),
    ):
        pass


def test_concurrent_claims_never_admit_two_runs(database: Database) -> None:
    """All may withdraw, but no two hold the lease."""
    holders: list[str] = []
    guard = threading.Lock()

    def contend(name: str) -> int:
        """The highest number of other holders at the same time."""
        most = 0
        for _ in range(8):
            with suppress(AnotherRunError), Lease(database, name):
                with guard:
                    holders.append(name)
                time.sleep(0.005)
                with guard:
                    most = max(most, len(holders) - 1)
                    holders.remove(name)
        return most

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(contend, ["one", "two", "three", "four"])) == 0
    with Lease(database, "the last"):
        pass


def test_expired_lease_registers_no_more_loads(database: Database) -> None:
    """A machine that was suspended for too long does not write into the run of another one."""
    now = [1000.0]
    with Lease(database, "one", clock=lambda: now[0]) as lease:
        lease.register_loads(["1.1"])
        now[0] += LEASE_S + 1
        with pytest.raises(OutsideError, match="could not be renewed in time"):
            lease.register_loads(["1.2"])
    assert database.column("select load_id from deribit_runs.begun_loads") == ["1.1"]


def test_slow_claim_is_valid_from_the_time_of_its_request(doubled: Database, double: ClientDouble) -> None:
    """The server's clock may have started the term when the request was sent."""
    now = [1000.0]

    def respond_after_a_minute() -> None:
        now[0] += 60

    double.before_claim = respond_after_a_minute
    with Lease(doubled, "one", clock=lambda: now[0]) as lease:  # claims at 1000 and 1060
        now[0] = 1060 + LEASE_S - 1
        lease.require_held()
        now[0] = 1060 + LEASE_S + 1
        with pytest.raises(OutsideError, match="could not be renewed in time"):
            lease.require_held()


def test_failed_renewal_is_retried_and_its_reason_is_reported(
    doubled: Database, double: ClientDouble
) -> None:
    """A run continues while the lease is valid; the error after its expiry contains the driver's error in one sentence."""
    now = [1000.0]
    failures = threading.Semaphore(0)

    def fail() -> None:
        failures.release()
        raise OperationalError("HTTP status 503")

    with Lease(doubled, "one", renew_every_s=0.01, clock=lambda: now[0]) as lease:
        double.before_claim = fail
        for _ in range(3):
            assert failures.acquire(timeout=10)
        lease.require_held()
        now[0] += LEASE_S + 1
        with pytest.raises(OutsideError, match=r"^The lease .* Run again\. \(.* HTTP status 503 [^\n]*\)$"):
            lease.require_held()
        double.before_claim = failures.release
        for _ in range(3):
            assert failures.acquire(timeout=10)
        lease.require_held()


def test_defect_in_the_renewal_ends_the_run(doubled: Database, double: ClientDouble) -> None:
    """An exception that is not a failure of the server is raised in the run, not swallowed by the thread."""
    has_failed = threading.Event()

    def fail() -> None:
        has_failed.set()
        raise ZeroDivisionError

    with Lease(doubled, "one", renew_every_s=0.01) as lease:
        double.before_claim = fail
        assert has_failed.wait(10)
        with pytest.raises(ZeroDivisionError):
            hold(lease, 10)
        double.before_claim = lambda: None


def hold(lease: Lease, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        lease.require_held()


@pytest.mark.parametrize(("at", "refuses"), [("now64(6)", True), ("now64(6) + interval 300 day", False)])
def test_forged_claim_expires_after_one_lease_term(database: Database, at: str, refuses: bool) -> None:
    """A login that may insert claims cannot block all runs for ever."""
    with Lease(database, "creates the tables"):
        pass
    database.command(
        "insert into deribit_runs.leases (lease_id, sign, holder, is_held, at, expires_at) "
        f"select 'forged', 4294967295, 'forger', true, {at}, toDateTime64('2290-01-01', 6, 'UTC')"
    )
    if not refuses:
        with Lease(database, "one"):
            return
    with pytest.raises(AnotherRunError, match=r"expires in (89|90) s"), Lease(database, "one"):
        pass


def test_rows_of_unfinished_loads_are_deleted(
    database: Database, raw_trades: Callable[[], list[str]]
) -> None:
    with Lease(database, "one") as lease:
        lease.register_loads(["1.1", "1.2"])
        assert delete_unfinished_loads(database) == ["1.2"]
        assert raw_trades() == ["1.1"]
        assert delete_unfinished_loads(database) == [], "the registered loads are cleared"


def test_load_that_is_listed_as_incomplete_is_unfinished(
    database: Database, raw_trades: Callable[[], list[str]]
) -> None:
    """Only status 0 in `_dlt_loads` means that all rows of a package are loaded."""
    database.insert("deribit_raw._dlt_loads", [["1.2", 1]], ["load_id", "status"])
    with Lease(database, "one") as lease:
        lease.register_loads(["1.1", "1.2"])
        assert delete_unfinished_loads(database) == ["1.2"]
    assert raw_trades() == ["1.1"]


def test_rows_are_deleted_where_no_load_was_ever_finished(
    database: Database, raw_trades: Callable[[], list[str]]
) -> None:
    """The first run was killed before it created the table of finished loads."""
    database.command("drop table deribit_raw._dlt_loads sync")
    with Lease(database, "one") as lease:
        lease.register_loads(["1.2"])
        assert delete_unfinished_loads(database) == ["1.2"]
    assert raw_trades() == ["1.1"]


def test_finished_loads_are_read_from_an_up_to_date_replica(
    doubled: Database, double: ClientDouble, raw_trades: Callable[[], list[str]]
) -> None:
    """A replica that lags behind would report a finished package as unfinished, and its rows would be deleted."""
    with Lease(doubled, "one") as lease:
        lease.register_loads(["1.2"])
        delete_unfinished_loads(doubled)
    assert double.query_settings == [{"select_sequential_consistency": 1}] * 4


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
        assert delete_unfinished_loads(database) == ["1.2"]
    assert raw_trades() == ["1.1"]
    assert database.column(f"select _dlt_load_id from deribit_raw.{quoted}") == ["1.1"]
