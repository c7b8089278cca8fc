"""A lease admits one run at a time to a database."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import OperationalError

from extract.clickhouse.client import Database, shared_database
from extract.clickhouse.lease import LEASE_S, AnotherRunError, Lease
from extract.clickhouse.loads import delete_unfinished_loads
from extract.clickhouse.settings import ClickHouseSettings
from extract.errors import OutsideError


class ClientDouble:
    """Passes every call to a real client, and records `query_settings`.

    `before_claim` runs first for each claim, `before_create` for each statement that creates something.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self.before_claim: Callable[[], None] = lambda: None
        self.before_create: Callable[[], None] = lambda: None
        self.query_settings: list[object] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def command(self, sql: str, *arguments: object, **options: Any) -> object:
        if sql.startswith("insert into deribit_runs.leases"):
            self.before_claim()
        if sql.startswith("create "):
            self.before_create()
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
        with Lease(database, "two"):
            pass


def test_released_lease_is_free_at_once(database: Database) -> None:
    with Lease(database, "one"):
        pass
    with Lease(database, "two"):
        pass


@pytest.mark.parametrize("created", range(4))
def test_run_after_one_that_was_killed_while_it_created_its_tables(
    doubled: Database, double: ClientDouble, database: Database, created: int
) -> None:
    """Whatever the killed run has created of the database and its three tables, the next run creates the rest."""
    left = iter(range(created))

    def kill_after_the_last() -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    double.before_create = kill_after_the_last
    with pytest.raises(KeyboardInterrupt), Lease(doubled, "killed"):
        pass
    with Lease(database, "next") as lease:
        lease.register_loads(["1.1"])
        assert delete_unfinished_loads(database).unfinished == ["1.1"]


@pytest.mark.parametrize("missing", [["deleted_loads"], ["deleted_loads", "begun_loads"]])
def test_run_creates_tables_that_an_earlier_version_did_not_have(
    database: Database, missing: list[str]
) -> None:
    with Lease(database, "first"):
        pass
    for table in missing:
        database.command(f"drop table deribit_runs.{table} sync")
    with Lease(database, "next") as lease:
        assert delete_unfinished_loads(database).unfinished == []
        lease.register_loads(["1.1"])
        assert delete_unfinished_loads(database).unfinished == ["1.1"]


def test_new_table_that_a_replica_does_not_have_yet_is_waited_for(
    doubled: Database, double: ClientDouble, database: Database
) -> None:
    drops = iter(range(3))

    def drop() -> None:
        if next(drops, None) is not None:
            database.command("drop table if exists deribit_runs.leases sync")

    double.before_claim = drop
    with Lease(doubled, "first") as lease:
        lease.register_loads(["1.1"])
        with pytest.raises(AnotherRunError), Lease(database, "second"):
            pass


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

    def wait_for_renewals(fails: bool) -> None:
        """Until two have ended that began after this call."""
        begun = threading.Semaphore(0)

        def begin() -> None:
            begun.release()
            if fails:
                raise OperationalError("HTTP status 503")

        double.before_claim = begin
        for _ in range(3):
            assert begun.acquire(timeout=60)

    with Lease(doubled, "one", renew_every_s=0.01, clock=lambda: now[0]) as lease:
        wait_for_renewals(fails=True)
        now[0] += LEASE_S - 1
        wait_for_renewals(fails=False)
        now[0] += LEASE_S - 1
        lease.require_held()
        wait_for_renewals(fails=True)
        now[0] += LEASE_S + 1
        with pytest.raises(OutsideError, match=r"^The lease .* Run again\. \(.* HTTP status 503 [^\n]*\)$"):
            lease.require_held()


@pytest.mark.parametrize("lapses", ["before the claim", "during the claim"])
def test_expired_lease_is_never_valid_again(doubled: Database, double: ClientDouble, lapses: str) -> None:
    """Another run may have held the lease meanwhile, and deleted what this one was loading."""
    now = [1000.0]
    has_renewed, may_claim = threading.Event(), threading.Event()

    def claim() -> None:
        has_renewed.set()
        assert may_claim.wait(60)

    with Lease(doubled, "one", renew_every_s=0.3, clock=lambda: now[0]) as lease:
        double.before_claim = claim
        if lapses == "during the claim":
            assert has_renewed.wait(60)
        now[0] += LEASE_S + 1
        may_claim.set()
        deadline_s = time.monotonic() + 0.7
        while time.monotonic() < deadline_s:
            with pytest.raises(OutsideError, match="could not be renewed in time"):
                lease.require_held()
            time.sleep(0.05)


def test_defect_in_the_renewal_ends_the_run(doubled: Database, double: ClientDouble) -> None:
    """An exception that is not a failure of the server is raised in the run, not swallowed by the thread."""
    has_failed = threading.Event()

    def fail() -> None:
        has_failed.set()
        raise ZeroDivisionError

    with Lease(doubled, "one", renew_every_s=0.01) as lease:
        double.before_claim = fail
        assert has_failed.wait(60)
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
