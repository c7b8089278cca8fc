"""Windows of a backfill: many load packages with one state, and recovery when either is lost."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client

from extract.clickhouse.settings import clickhouse_settings
from extract.errors import OutsideError, UsageError
from extract.paths import tape_dir
from extract.pipeline.load import open_pipeline
from extract.pipeline.options import RunOptions
from extract.pipeline.recovery import LOADED_PACKAGES_RETAINED, recover
from extract.pipeline.run import RunSummary, run
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from tests.support.small_windows import keys_in, keys_of, packages_in

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


def numbers_in(client: Client) -> list[int]:
    return [n for (n,) in client.query("SELECT n FROM deribit_raw.numbers ORDER BY n").result_rows]


def test_package_normalized_but_not_deleted_is_loaded_once(
    small_windows: None, clickhouse_client: Client, tmp_path: Path
) -> None:
    """dlt was killed between normalizing and deleting a package; without repair it could never run again."""
    pipeline = open_pipeline(clickhouse_settings())
    pipeline.run([{"n": 0}], table_name="numbers")
    pipeline.extract([{"n": n} for n in range(1, 5)], table_name="numbers")
    extracted = Path(pipeline.working_dir) / "normalize" / "extracted"
    shutil.copytree(extracted, tmp_path / "extracted")
    pipeline.normalize()
    shutil.copytree(tmp_path / "extracted", extracted, dirs_exist_ok=True)
    assert pipeline.list_extracted_load_packages() == pipeline.list_normalized_load_packages()
    recover(open_pipeline(clickhouse_settings()))
    assert numbers_in(clickhouse_client) == list(range(5))
    assert not pipeline.has_pending_data


def test_package_complete_but_not_moved_is_loaded_once(
    small_windows: None, clickhouse_client: Client
) -> None:
    """dlt was killed between marking the package and moving it; without repair it would never move it."""
    pipeline = open_pipeline(clickhouse_settings())
    pipeline.run([{"n": n} for n in range(5)], table_name="numbers")
    (load_id,) = pipeline.list_completed_load_packages()
    load = Path(pipeline.working_dir) / "load"
    (load / "loaded" / load_id).rename(load / "normalized" / load_id)
    recover(open_pipeline(clickhouse_settings()))
    assert numbers_in(clickhouse_client) == list(range(5))
    assert pipeline.list_completed_load_packages() == [load_id]
    assert not pipeline.has_pending_data


def test_only_the_last_loaded_packages_are_retained(small_windows: None) -> None:
    """Frequent runs do not fill the disk."""
    for n in range(3):
        pipeline = open_pipeline(clickhouse_settings())
        pipeline.run([{"n": n}], table_name="numbers")
    loaded = Path(pipeline.working_dir) / "load" / "loaded"
    last = max(pipeline.list_completed_load_packages())
    for second in range(50):
        shutil.copytree(loaded / last, loaded / f"17000000{second}.0")
    retained = open_pipeline(clickhouse_settings()).list_completed_load_packages()
    assert len(retained) == LOADED_PACKAGES_RETAINED
    assert last in retained


def test_state_older_than_its_package_is_updated(
    listed: Listed, clickhouse_client: Client, tape: Tape
) -> None:
    """Killed after the package was complete and before the state was stored: nothing is fetched twice."""
    listed(tape)
    state = Path(open_pipeline(clickhouse_settings()).working_dir) / "state.json"
    run_btc(since=iso(int(tape.trades[-1]["timestamp"]) - DAY_MS))
    before = state.read_text()
    run_btc(since="2016-01-01")
    state.write_text(before)
    assert run_btc(since="2016-01-01").total == 0
    assert keys_in(clickhouse_client) == keys_of(tape)


def test_partial_extraction_is_deleted(small_windows: None) -> None:
    """The next run deletes the files that a killed run had partly written."""
    pipeline = open_pipeline(clickhouse_settings())
    pipeline.run([{"n": 0}], table_name="numbers")
    partial = Path(pipeline.working_dir) / "normalize" / "a1b2c3d4" / "1700000000.0"
    partial.mkdir(parents=True)
    (partial / "trades.0.parquet").write_bytes(os.urandom(100))
    recover(open_pipeline(clickhouse_settings()))
    assert not partial.parent.exists()
