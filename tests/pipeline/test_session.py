"""One run at a time on one database, whichever machine it is on; and what a machine that is gone has left half done."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client

from extract.clickhouse.client import shared_database
from extract.clickhouse.lease import Lease
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


def go() -> RunSummary:
    return run(RunOptions(currencies=("BTC",)))


def test_a_run_on_another_machine_is_waited_for_and_named(
    listed: Listed, clickhouse: ClickHouseSettings, tape: Tape
) -> None:
    """Nothing is loaded beside it; once it is over, the run goes."""
    listed(tape)
    with (
        Lease(shared_database(clickhouse), "lambda increment"),
        pytest.raises(UsageError, match=r"\(lambda increment\).*lease expires in \d+ s"),
    ):
        go()
    assert go().total == len(keys_of(tape))


def cut_off_after_the_trades(
    proxy: Proxy, runner: Callable[[], Runner], monkeypatch: pytest.MonkeyPatch
) -> Runner:
    """A run that is killed when its first trades are in the table, and neither its state nor its end is."""
    monkeypatch.setenv("CLICKHOUSE_LOCAL_PORT", str(proxy.port))
    made = runner()
    proxy.marker, proxy.lose_responses = b"%60trades%60+FORMAT", 1
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
