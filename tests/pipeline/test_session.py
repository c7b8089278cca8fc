"""One run at a time per database, from any machine, and cleanup after runs whose machine is gone."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import dlt
import pytest
from clickhouse_connect.driver.client import Client

from extract.clickhouse.client import shared_database
from extract.clickhouse.lease import LEASE_S, AnotherRunError, Lease
from extract.clickhouse.settings import ClickHouseSettings, clickhouse_settings
from extract.errors import OutsideError, RetriableError, UsageError
from extract.paths import tape_dir
from extract.pipeline.run import run
from extract.pipeline.session import default_holder_id, open_session, run_lock
from extract.pipeline.summary import RunSummary
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from extract.source.options import RunOptions
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


def test_package_of_a_run_without_its_lease_is_not_listed_as_finished(
    small_windows: None, clickhouse_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine was suspended while it loaded: another run may have deleted the rows of the package."""
    now = [1000.0]
    monkeypatch.setattr("extract.pipeline.session.Lease", partial(Lease, clock=lambda: now[0]))

    @dlt.resource(name="rows")
    def rows() -> Iterator[dict[str, int]]:
        yield {"a": 1}

    with run_lock(), open_session(clickhouse_settings()) as session:
        register = session.lease.register_loads

        def register_and_suspend(load_ids: Iterable[str]) -> None:
            register(load_ids)
            now[0] += LEASE_S + 1

        monkeypatch.setattr(session.lease, "register_loads", register_and_suspend)
        with pytest.raises(OutsideError, match="could not be renewed in time"):
            session.run(dlt.source(lambda: rows, name="deribit")())
    assert clickhouse_client.query("select a from deribit_raw.rows").result_rows == [(1,)]
    assert clickhouse_client.query("select * from deribit_raw._dlt_loads").result_rows == []


def test_no_package_is_made_before_the_time_of_the_newest(
    listed: Listed, clickhouse_client: Client, tape: Tape
) -> None:
    """As after a run while the clock was minutes ahead: a package of now would count as older than that one."""
    listed(tape)
    run_btc()
    load_id = str(time.time() + 400)
    clickhouse_client.command(
        f"insert into deribit_raw._dlt_loads select * replace ('{load_id}' as load_id) from deribit_raw._dlt_loads limit 1"
    )
    with pytest.raises(RetriableError, match=r"newest load package is of .* after this computer's time"):
        run_btc()


def test_copy_of_a_directory_is_another_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a run in a copied checkout would take over from one that still runs."""
    holders = []
    for name in ("first", "first", "copy", "moved"):
        directory = tmp_path / name
        if name == "copy":
            shutil.copytree(tmp_path / "first", directory)
        elif name == "moved":
            (tmp_path / "first").rename(directory)
        else:
            directory.mkdir(exist_ok=True)
        monkeypatch.setenv("TAPE_DIR", str(directory))
        holders.append(default_holder_id())
    first, again, copy, moved = holders
    assert first == again == moved != copy


def test_machines_of_one_image_are_different_holders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have the same host name, and the same directory with the same file."""
    monkeypatch.setenv("TAPE_DIR", str(tmp_path))
    boot_id = tmp_path / "boot_id"
    holders = []
    for text in ("a1b2c3d4-0001\n", "a1b2c3d4-0001\n", "e5f60718-0002\n"):
        boot_id.write_text(text)
        holders.append(default_holder_id(boot_id))
    boot_id.unlink()
    one, again, other = holders
    assert one == again != other
    assert default_holder_id(boot_id), "a system without the file"


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_package_is_registered_before_it_is_loaded(
    listed: Listed, clickhouse_client: Client, tape: Tape
) -> None:
    """Another machine has to know of the package to delete its rows."""
    listed(tape)
    run_btc()
    clickhouse_client.command("alter table deribit_raw.trades delete where 1 settings mutations_sync = 1")
    for table in ("_dlt_loads", "_dlt_pipeline_state"):
        clickhouse_client.command(f"truncate table deribit_raw.{table}")
    clickhouse_client.command("alter table deribit_raw.trades add constraint refused check price < 0")
    begun = "select load_id from deribit_runs.begun_loads order by load_id desc limit 1"
    before = clickhouse_client.command(begun)
    with pytest.raises(OutsideError, match="refused"):
        run_btc()
    assert clickhouse_client.command(begun) > before
    clickhouse_client.command("alter table deribit_raw.trades drop constraint refused")
    assert run_btc().total == len(keys_of(tape))
