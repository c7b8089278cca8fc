"""kill -9 at any moment of a backfill costs at most the current window, and never loses or duplicates a trade."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client

from extract.clickhouse.client import open_client
from extract.clickhouse.embedded.home import ServerHome
from extract.clickhouse.embedded.server import embedded_server
from extract.clickhouse.settings import ClickHouseSettings
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from harness.processes import children
from tests.support.proxy import proxy_to
from tests.support.small_windows import Runner, keys_in, keys_of, packages_in, tape_files
from tests.support.waiting import wait_until

Listed = Callable[[Tape], SandboxExchange]


def kill_and_finish(runner: Runner, kills: int, seed: int) -> int:
    """Kill runs at random moments until `kills` were killed or one completed, then run once more; the number killed."""
    rng = random.Random(seed)
    killed = 0
    while killed < kills and runner.run(rng.uniform(0.2, 0.9)) == -signal.SIGKILL:
        killed += 1
    assert runner.run() == 0
    return killed


@pytest.mark.slow(minutes=2)
def test_backfill_killed_at_random_moments_loads_every_trade_once(
    listed: Listed, runner: Callable[[], Runner], clickhouse_client: Client
) -> None:
    """The same rows as without kills, no duplicates in the raw table, and no leftover files."""
    tape, kills = Tape.generate(seed=7, trades=30_000, days=5), 30
    listed(tape)
    killed = kill_and_finish(runner(), kills, seed=30_000)
    assert killed >= kills * 2 // 3, "the backfill completed before it was killed often enough"
    assert keys_in(clickhouse_client) == keys_of(tape)
    assert packages_in(clickhouse_client) > kills
    assert not leftover_files()


@pytest.mark.heavy
@pytest.mark.slow(minutes=5)
def test_next_run_resumes_after_a_kill_before_each_kind_of_file_change(
    listed: Listed, runner: Callable[[], Runner], clickhouse_client: Client, tmp_path: Path
) -> None:
    """Each run is killed before a kind of change not tried yet, until a run completes: every step is covered."""
    tape = Tape.generate(seed=5, trades=20_000, days=5)
    listed(tape)
    made, killed_before = runner(), tmp_path / "killed_before"
    killed_before.touch()
    while (code := made.run_to_news(killed_before)) == -signal.SIGKILL:
        pass
    assert code == 0
    assert len(killed_before.read_text().splitlines()) > 80
    assert keys_in(clickhouse_client) == keys_of(tape)
    assert clickhouse_client.command("SELECT uniqExact(load_id) = count() FROM deribit_raw._dlt_loads")
    assert not leftover_files()


@pytest.mark.slow
def test_kill_between_insert_and_acknowledgement_duplicates_nothing(
    listed: Listed,
    runner: Callable[[], Runner],
    clickhouse: ClickHouseSettings,
    clickhouse_client: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server has the rows, but the run never received the answer: the next one's insert is deduplicated."""
    tape = Tape.generate(seed=3, trades=600, days=2)
    listed(tape)
    with proxy_to(clickhouse.port) as proxy:
        monkeypatch.setenv("CLICKHOUSE_LOCAL_PORT", str(proxy.port))
        made = runner()
        proxy.marker, proxy.lose_responses = b"%60trades%60+FORMAT", 1
        proxy.on_lost = lambda: os.kill(child_of(made.pid), signal.SIGKILL)
        assert made.run() == -signal.SIGKILL
        assert keys_in(clickhouse_client), "the insert was done when the run was killed"
        assert made.run() == 0
    assert keys_in(clickhouse_client) == keys_of(tape)


@pytest.mark.slow
def test_run_whose_server_is_killed_loads_every_trade_once(
    listed: Listed, runner: Callable[[], Runner], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The server has done an insert, is killed before it acknowledges it, and is started again by its supervisor."""
    tape = Tape.generate(seed=3, trades=600, days=2)
    listed(tape)
    moments = [b"%60trades%60+FORMAT", b"%60coverage%60+FORMAT", b"INSERT INTO `deribit_raw`.`_dlt_loads`"]
    with (
        embedded_server(tmp_path / "server") as settings,
        open_client(settings) as client,
        proxy_to(settings.port) as proxy,
    ):
        monkeypatch.setenv("CLICKHOUSE_LOCAL_PORT", str(proxy.port))
        monkeypatch.setenv("CLICKHOUSE_LOCAL_PASSWORD", settings.password)
        made = runner()

        def kill_at_the_next_moment() -> None:
            proxy.marker, proxy.lose_responses = moments.pop(0), 1

        def kill() -> None:
            supervisor = ServerHome(tmp_path / "server").server_pid()
            assert supervisor is not None
            os.kill(child_of(supervisor), signal.SIGKILL)
            if moments:
                kill_at_the_next_moment()

        proxy.on_lost = kill
        kill_at_the_next_moment()
        for _ in range(10):
            assert made.run() in (0, 4)
            wait_until(lambda: answers(client))
            if not moments and not proxy.lose_responses:
                break
        assert (moments, proxy.lose_responses) == ([], 0)
        wait_until(lambda: answers(client))
        assert made.run() == 0
        assert keys_in(client) == keys_of(tape)


def answers(client: Client) -> bool:
    """Whether the server is up."""
    with suppress(Exception):
        return bool(client.ping())
    return False


def leftover_files() -> list[str]:
    """Data files that no run needs any more; dlt's pending transitions are markers named like the files."""
    data = [path for path in tape_files() if path.endswith((".parquet", ".jsonl", ".gz"))]
    return [path for path in data if "/.pending_transitions/" not in path]


def child_of(pid: int) -> int:
    """The only child of a process."""
    [child] = children(pid)
    return child
