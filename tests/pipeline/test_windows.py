"""Windows of a backfill: many load packages with one state, which is restored when the disk is lost."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client

from extract.errors import OutsideError, UsageError
from extract.paths import dlt_dir, tape_dir
from extract.pipeline.load import LOADED_PACKAGES_RETAINED, PIPELINE_NAME
from extract.pipeline.run import run
from extract.pipeline.summary import RunSummary
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from extract.source.options import RunOptions
from tests.support.small_windows import keys_in, keys_of, packages_in, tape_files

Listed = Callable[[Tape], SandboxExchange]
DAY_MS = 86_400_000


@pytest.fixture
def tape() -> Tape:
    return Tape.generate(seed=5, trades=400, days=3)


def run_btc(**options: str) -> RunSummary:
    return run(RunOptions(currencies=("BTC",), **options))


def requested_times(exchange: SandboxExchange) -> list[tuple[int, int]]:
    """(start, end) in ms of every request by time since the last call."""
    times = [
        (int(r.params["start_timestamp"]), int(r.params["end_timestamp"]))
        for r in exchange.requests
        if "start_timestamp" in r.params
    ]
    exchange.requests.clear()
    return times


def iso(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%FT%TZ}"


def test_backfill_loads_one_package_per_window(listed: Listed, clickhouse_client: Client) -> None:
    """The summary counts the rows of the table."""
    tape = Tape.generate(seed=6, trades=4_000, days=3)
    listed(tape)
    summary = run_btc()
    assert keys_in(clickhouse_client) == keys_of(tape)
    assert summary.total + summary.repaired == len(keys_of(tape))
    assert 2 < packages_in(clickhouse_client) <= summary.windows


@pytest.mark.slow
def test_dropped_database_is_loaded_again(listed: Listed, clickhouse_client: Client, tape: Tape) -> None:
    """The state in .tape covers everything, but it is discarded because the data is gone."""
    listed(tape)
    run_btc()
    clickhouse_client.command("DROP DATABASE deribit_raw SYNC")
    assert run_btc().total
    assert keys_in(clickhouse_client) == keys_of(tape)


def test_state_is_restored_from_the_database(listed: Listed, clickhouse_client: Client, tape: Tape) -> None:
    """Without a working directory nothing is loaded twice, and only the newest time is requested again."""
    exchange = listed(tape)
    run_btc()
    shutil.rmtree(tape_dir())
    requested_times(exchange)
    assert run_btc().total == 0
    assert keys_in(clickhouse_client) == keys_of(tape)
    assert min(start for start, _ in requested_times(exchange)) >= exchange.now_ms - DAY_MS // 24


@pytest.mark.slow
def test_earlier_since_fetches_only_what_is_not_covered(
    listed: Listed, clickhouse_client: Client, tape: Tape
) -> None:
    """The last day, then the last two, then everything: each run requests only the time before."""
    exchange = listed(tape)
    now_ms = exchange.now_ms // 1000 * 1000
    run_btc(since=iso(now_ms - DAY_MS))
    requested_times(exchange)
    run_btc(since=iso(now_ms - 2 * DAY_MS))
    settled_ms = now_ms - DAY_MS // 24
    times = requested_times(exchange)
    assert any(start < now_ms - DAY_MS for start, _ in times)
    assert all(end < now_ms - DAY_MS or start >= settled_ms for start, end in times)
    run_btc(since="2016-01-01")
    times = requested_times(exchange)
    assert all(end < now_ms - 2 * DAY_MS or start >= settled_ms for start, end in times)
    assert keys_in(clickhouse_client) == keys_of(tape)


def test_second_run_is_refused_with_the_process_id(listed: Listed, tape: Tape) -> None:
    """Two runs would overwrite each other's state."""
    listed(tape)
    tape_dir().mkdir(parents=True, exist_ok=True)
    with (tape_dir() / "run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4711")
        lock.flush()
        with pytest.raises(UsageError, match="process 4711"):
            run_btc()


@pytest.mark.slow
def test_failed_load_ends_the_run_with_one_sentence(
    listed: Listed, clickhouse_client: Client, tape: Tape
) -> None:
    """The load fails while the next window is extracted; once the cause is fixed, the next run resumes."""
    listed(tape)
    now_ms = int(tape.trades[-1]["timestamp"])
    run_btc(since=iso(now_ms - DAY_MS // 2))
    clickhouse_client.command("ALTER TABLE deribit_raw.trades ADD CONSTRAINT none CHECK price < 0")
    with pytest.raises(OutsideError) as raised:
        run_btc(since="2016-01-01")
    assert "\n" not in str(raised.value)
    assert "none" in str(raised.value)
    clickhouse_client.command("ALTER TABLE deribit_raw.trades DROP CONSTRAINT none")
    run_btc(since="2016-01-01")
    assert keys_in(clickhouse_client) == keys_of(tape)


def test_working_directory_of_a_killed_run_is_discarded(
    listed: Listed, clickhouse_client: Client, tape: Tape
) -> None:
    """It has partial, extracted and normalized packages, a file that is no state, and no record of a clean end."""
    listed(tape)
    run_btc(since=iso(int(tape.trades[-1]["timestamp"]) - DAY_MS))
    directory = working_directory()
    for folder in ("normalize/a1b2c3d4", "normalize/extracted", "load/new", "load/normalized"):
        package = directory / folder / "1700000000.0"
        package.mkdir(parents=True)
        (package / "trades.0.parquet").write_bytes(os.urandom(100))
    (directory / "state.json").write_text("{")
    marker_of(directory).unlink()
    run_btc(since="2016-01-01")
    assert keys_in(clickhouse_client) == keys_of(tape)
    assert not [path for path in tape_files() if "1700000000.0" in path]


@pytest.mark.slow
def test_working_directory_is_discarded_once_it_has_many_packages(listed: Listed, tape: Tape) -> None:
    """Frequent runs do not fill the disk."""
    listed(tape)
    run_btc(since=iso(int(tape.trades[-1]["timestamp"]) - DAY_MS))
    loaded = working_directory() / "load" / "loaded"
    last = max(path.name for path in loaded.iterdir())
    for second in range(LOADED_PACKAGES_RETAINED):
        shutil.copytree(loaded / last, loaded / f"1700000{second:03}.0")
    run_btc(since="2016-01-01")
    assert 0 < len(list(loaded.iterdir())) < LOADED_PACKAGES_RETAINED


def test_state_older_than_its_package_is_restored(
    listed: Listed, clickhouse_client: Client, tape: Tape
) -> None:
    """Killed after the package was complete and before the state was stored: nothing is fetched twice."""
    listed(tape)
    run_btc(since=iso(int(tape.trades[-1]["timestamp"]) - DAY_MS))
    state, marker = working_directory() / "state.json", marker_of(working_directory())
    before = state.read_text(), marker.read_text()
    run_btc(since="2016-01-01")
    for path, text in zip((state, marker), before, strict=True):
        path.write_text(text)
    assert run_btc(since="2016-01-01").total == 0
    assert keys_in(clickhouse_client) == keys_of(tape)


def working_directory() -> Path:
    return dlt_dir("local") / "pipelines" / PIPELINE_NAME


def marker_of(directory: Path) -> Path:
    """The record of a clean end."""
    return directory.with_name(f"{PIPELINE_NAME}.clean")
