"""One run at a time per database, from any machine, and recovery from runs whose machine is gone."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client

from extract.clickhouse.client import shared_database
from extract.clickhouse.lease import AnotherRunError, Lease
from extract.clickhouse.settings import ClickHouseSettings, clickhouse_settings
from extract.errors import OutsideError, UsageError
from extract.paths import tape_dir
from extract.pipeline.load import open_pipeline
from extract.pipeline.options import RunOptions
from extract.pipeline.run import RunSummary, run
from extract.pipeline.session import open_session, run_lock
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from tests.pipeline.test_kills import child_of
from tests.support.proxy import Proxy, proxy_to
from tests.support.small_windows import Runner, keys_in, keys_of

Listed = Callable[[Tape], SandboxExchange]


@pytest.fixture
def tape() -> Tape:
    return Tape.generate(seed=9, trades=600, days=2)


def run_btc() -> RunSummary:
    return run(RunOptions(currencies=("BTC",)))


def test_run_is_refused_while_another_machine_holds_the_lease(
    listed: Listed, clickhouse: ClickHouseSettings, tape: Tape
) -> None:
    """The message names the holder; once the lease is released, the run loads everything."""
    listed(tape)
    with (
        Lease(shared_database(clickhouse), "lambda increment"),
        pytest.raises(UsageError, match=r"\(lambda increment\).*lease expires in \d+ s"),
    ):
        run_btc()
    assert run_btc().total == len(keys_of(tape))


def test_run_holds_the_lease_as_the_requested_holder(small_windows: None) -> None:
    """The message of another run names it instead of this machine's TAPE_DIR."""
    settings = clickhouse_settings()
    with (
        run_lock(),
        open_session(settings, "lambda increment"),
        pytest.raises(AnotherRunError, match=r"\(lambda increment\)"),
        Lease(shared_database(settings), "another machine"),
    ):
        pass


def test_refusal_names_only_the_process_that_holds_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has the id of an earlier run."""
    monkeypatch.setenv("TAPE_DIR", str(tmp_path))
    (tmp_path / "run.lock").write_text("4711")
    with run_lock(), pytest.raises(UsageError, match=rf"\(process {os.getpid()}\)"), run_lock():
        pass


def kill_after_the_trades(
    proxy: Proxy, runner: Callable[[], Runner], monkeypatch: pytest.MonkeyPatch
) -> Runner:
    """A run killed when its first trades are in the table, but neither its state nor its completion."""
    monkeypatch.setenv("CLICKHOUSE_LOCAL_PORT", str(proxy.port))
    made = runner()
    proxy.marker, proxy.lose_responses = b"%60trades%60+FORMAT", 1
    proxy.on_lost = lambda: os.kill(child_of(made.pid), signal.SIGKILL)
    assert made.run() == -signal.SIGKILL
    return made


@pytest.mark.slow
def test_unfinished_rows_are_deleted_when_the_disk_is_gone(
    listed: Listed,
    runner: Callable[[], Runner],
    clickhouse: ClickHouseSettings,
    clickhouse_client: Client,
    monkeypatch: pytest.MonkeyPatch,
    tape: Tape,
) -> None:
    """The trades were loaded, their state was not: the next run deletes and refetches them."""
    listed(tape)
    with proxy_to(clickhouse.port) as proxy:
        made = kill_after_the_trades(proxy, runner, monkeypatch)
        assert keys_in(clickhouse_client)
        shutil.rmtree(tape_dir() / "dlt")
        assert made.run() == 0
    assert keys_in(clickhouse_client) == keys_of(tape)


def test_local_state_is_discarded_after_another_machine_ran(
    listed: Listed,
    runner: Callable[[], Runner],
    clickhouse: ClickHouseSettings,
    clickhouse_client: Client,
    monkeypatch: pytest.MonkeyPatch,
    tape: Tape,
    tmp_path: Path,
) -> None:
    """One disk holds a partly loaded package, another machine has loaded everything since: no row is added."""
    listed(tape)
    with proxy_to(clickhouse.port) as proxy:
        kill_after_the_trades(proxy, runner, monkeypatch)
    monkeypatch.setenv("CLICKHOUSE_LOCAL_PORT", str(clickhouse.port))
    here = tape_dir()
    clickhouse_client.command("truncate table deribit_runs.leases")  # as if the lease had expired
    monkeypatch.setenv("TAPE_DIR", str(tmp_path / "another machine"))
    assert run_btc().total == len(keys_of(tape))
    monkeypatch.setenv("TAPE_DIR", str(here))
    assert run_btc().total == 0
    assert keys_in(clickhouse_client) == keys_of(tape)


def test_pending_packages_are_registered_before_they_are_loaded(
    small_windows: None, clickhouse_client: Client
) -> None:
    """A run that is killed while it recovers leaves rows that another machine has to know of to delete them."""
    pipeline = open_pipeline(clickhouse_settings())
    pipeline.run([{"n": 0}], table_name="numbers")
    pipeline.extract([{"n": 1}], table_name="numbers")
    [pending] = pipeline.list_extracted_load_packages()
    clickhouse_client.command("alter table deribit_raw.numbers add constraint refused check n < 0")
    with pytest.raises(OutsideError), run_lock(), open_session(clickhouse_settings()):
        pass
    assert clickhouse_client.query("select load_id from deribit_runs.begun_loads").result_rows == [(pending,)]
