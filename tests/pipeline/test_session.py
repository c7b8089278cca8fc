"""One run at a time on one database, whichever machine it is on; and what a machine that is gone has left half done."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client

from extract.clickhouse.client import shared_client
from extract.clickhouse.lease import Lease, delete_unfinished_loads
from extract.clickhouse.settings import ClickHouseSettings
from extract.errors import OutsideError, UsageError
from extract.paths import tape_dir
from extract.pipeline.run import RunOptions, RunSummary, run
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from tests.pipeline.test_kills import child_of
from tests.support.proxy import Proxy, proxy_to
from tests.support.small_windows import Runner, keys_in, keys_of

Listed = Callable[[Tape], SandboxExchange]


@pytest.fixture
def tape() -> Tape:
    return Tape.generate(seed=9, trades=600, days=2)


def go() -> RunSummary:
    return run(RunOptions(currencies=("BTC",)))


def test_a_run_on_another_machine_is_waited_for_and_named(
    listed: Listed, clickhouse: ClickHouseSettings, tape: Tape
) -> None:
    """Nothing is loaded beside it; once it is over, the run goes."""
    listed(tape)
    with (
        Lease(shared_client(clickhouse), "lambda increment"),
        pytest.raises(UsageError, match=r"\(lambda increment\).*counts as dead in \d+ s"),
    ):
        go()
    assert go().total == len(keys_of(tape))


def test_a_lease_is_kept_as_long_as_its_run_lives_and_no_longer(
    clean_clickhouse: ClickHouseSettings,
) -> None:
    """It is renewed beyond its time; one whose run was killed expires by itself."""
    with Lease(shared_client(clean_clickhouse), "one", seconds=0.8):
        time.sleep(1.2)
        with pytest.raises(UsageError), Lease(shared_client(clean_clickhouse), "two"):
            pass
    dead = Lease(shared_client(clean_clickhouse), "dead", seconds=60)
    dead._is_held = True
    dead._claim(0.8)
    with pytest.raises(UsageError), Lease(shared_client(clean_clickhouse), "two"):
        pass
    time.sleep(1)
    with Lease(shared_client(clean_clickhouse), "two") as two:
        assert not two.resumes_own_run


def test_of_many_that_begin_together_never_two_are_at_work(
    clean_clickhouse: ClickHouseSettings,
) -> None:
    """All may give way, but no two go on."""
    at_work: list[str] = []
    guard = threading.Lock()

    def contend(name: str) -> int:
        """How many others were at work at the same time, at the most."""
        most = 0
        for _ in range(8):
            with suppress(UsageError), Lease(shared_client(clean_clickhouse), name):
                with guard:
                    at_work.append(name)
                time.sleep(0.005)
                with guard:
                    most = max(most, len(at_work) - 1)
                    at_work.remove(name)
        return most

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(contend, ["one", "two", "three", "four"])) == 0
    with Lease(shared_client(clean_clickhouse), "the last"):
        pass


def test_a_lease_that_could_not_be_renewed_loads_nothing_more(
    clean_clickhouse: ClickHouseSettings,
) -> None:
    """A machine that slept too long does not write into another one's run."""
    with Lease(shared_client(clean_clickhouse), "one") as lease:
        lease._valid_until_s = time.time() - 1
        with pytest.raises(OutsideError, match="could not be renewed"):
            lease.begin(["1.2"])


def test_what_may_be_deleted_is_asked_of_a_replica_that_knows_all(
    clean_clickhouse: ClickHouseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that lags behind would call a finished package unfinished, and its rows would go."""
    client = shared_client(clean_clickhouse)
    client.command("create database deribit_raw")
    client.command("create table deribit_raw._dlt_loads (load_id String, status Int64) engine = Memory")
    asked: list[dict[str, int] | None] = []
    query = client.query

    def heard(*words: object, settings: dict[str, int] | None = None) -> object:
        asked.append(settings)
        return query(*words, settings=settings)

    with Lease(client, "one") as lease:
        lease.begin(["1.2"])
        monkeypatch.setattr(client, "query", heard)
        assert delete_unfinished_loads(client) == ["1.2"]
    assert asked == [{"select_sequential_consistency": 1}] * 3


def cut_off_after_the_trades(
    proxy: Proxy, runner: Callable[[], Runner], monkeypatch: pytest.MonkeyPatch
) -> Runner:
    """A run that is killed when its first trades are in the table, and neither its state nor its end is."""
    monkeypatch.setenv("CLICKHOUSE_LOCAL_PORT", str(proxy.port))
    made = runner()
    proxy.marker, proxy.lose_answers = b"%60trades%60+FORMAT", 1
    proxy.on_lost = lambda: os.kill(child_of(made.pid), signal.SIGKILL)
    assert made.run() == -signal.SIGKILL
    return made


def test_rows_of_a_run_whose_disk_is_gone_too_are_taken_away(
    listed: Listed,
    runner: Callable[[], Runner],
    clickhouse: ClickHouseSettings,
    clickhouse_client: Client,
    monkeypatch: pytest.MonkeyPatch,
    tape: Tape,
) -> None:
    """The trades were in and their state was not: the next run fetches them again, and they are there once."""
    listed(tape)
    with proxy_to(clickhouse.port) as proxy:
        made = cut_off_after_the_trades(proxy, runner, monkeypatch)
        assert keys_in(clickhouse_client)
        shutil.rmtree(tape_dir() / "dlt")
        assert made.run() == 0
    assert keys_in(clickhouse_client) == keys_of(tape)


def test_a_disk_that_was_overtaken_by_another_machine_is_not_believed(
    listed: Listed,
    runner: Callable[[], Runner],
    clickhouse: ClickHouseSettings,
    clickhouse_client: Client,
    monkeypatch: pytest.MonkeyPatch,
    tape: Tape,
    tmp_path: Path,
) -> None:
    """A package was left half loaded on one disk, another machine did it all: the first one then adds nothing."""
    listed(tape)
    with proxy_to(clickhouse.port) as proxy:
        cut_off_after_the_trades(proxy, runner, monkeypatch)
    monkeypatch.setenv("CLICKHOUSE_LOCAL_PORT", str(clickhouse.port))
    here = tape_dir()
    clickhouse_client.command("truncate table deribit_runs.leases")  # as after LEASE_S
    monkeypatch.setenv("TAPE_DIR", str(tmp_path / "another machine"))
    assert go().total == len(keys_of(tape))
    monkeypatch.setenv("TAPE_DIR", str(here))
    assert go().total == 0
    assert keys_in(clickhouse_client) == keys_of(tape)
