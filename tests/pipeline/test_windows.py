"""Windows of a backfill: many load packages, one state, and what is left of either is enough to go on."""

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


def go(**options: str) -> RunSummary:
    return run(RunOptions(currencies=("BTC",), **options))


def times_asked(exchange: SandboxExchange) -> list[tuple[int, int]]:
    """(start, end) in ms of every question about time since the last look."""
    asked = [
        (int(r.params["start_timestamp"]), int(r.params["end_timestamp"]))
        for r in exchange.requests
        if "start_timestamp" in r.params
    ]
    exchange.requests.clear()
    return asked


def iso(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%FT%TZ}"


def test_a_backfill_is_many_packages_and_says_what_it_loaded(
    listed: Listed, clickhouse_client: Client
) -> None:
    """Each window is a load package of its own, and the summary counts what the table holds."""
    tape = Tape.generate(seed=6, trades=4_000, days=3)
    listed(tape)
    summary = go()
    assert keys_in(clickhouse_client) == keys_of(tape)
    assert summary.total + summary.repaired == len(keys_of(tape))
    assert 2 < packages_in(clickhouse_client) <= summary.windows


def test_a_dropped_database_is_filled_again(listed: Listed, clickhouse_client: Client, tape: Tape) -> None:
    """The state in .tape says that all is covered, but the data is gone, and the data counts."""
    listed(tape)
    go()
    clickhouse_client.command("DROP DATABASE deribit_raw SYNC")
    assert go().total
    assert keys_in(clickhouse_client) == keys_of(tape)


def test_a_lost_working_directory_is_restored_from_the_database(
    listed: Listed, clickhouse_client: Client, tape: Tape
) -> None:
    """Nothing is loaded again, and only the newest time is asked for again."""
    exchange = listed(tape)
    go()
    shutil.rmtree(tape_dir())
    times_asked(exchange)
    assert go().total == 0
    assert keys_in(clickhouse_client) == keys_of(tape)
    assert min(start for start, _ in times_asked(exchange)) >= exchange.now_ms - DAY_MS // 24


def test_an_earlier_since_extends_the_past_and_fetches_nothing_that_is_covered(
    listed: Listed, clickhouse_client: Client, tape: Tape
) -> None:
    """The last day, then the last two, then everything: each time only what lies before is asked for."""
    exchange = listed(tape)
    now_ms = exchange.now_ms // 1000 * 1000
    go(since=iso(now_ms - DAY_MS))
    times_asked(exchange)
    go(since=iso(now_ms - 2 * DAY_MS))
    settled_ms = now_ms - DAY_MS // 24
    asked = times_asked(exchange)
    assert any(start < now_ms - DAY_MS for start, _ in asked)
    assert all(end < now_ms - DAY_MS or start >= settled_ms for start, end in asked)
    go(since="2016-01-01")
    asked = times_asked(exchange)
    assert all(end < now_ms - 2 * DAY_MS or start >= settled_ms for start, end in asked)
    assert keys_in(clickhouse_client) == keys_of(tape)


def test_a_second_run_at_once_says_who_is_at_work(listed: Listed, tape: Tape) -> None:
    """Two runs would overtake each other's state: the second names the process that holds the lock."""
    listed(tape)
    tape_dir().mkdir(parents=True, exist_ok=True)
    with (tape_dir() / "run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4711")
        lock.flush()
        with pytest.raises(UsageError, match="process 4711"):
            go()


def test_a_table_that_refuses_rows_ends_the_run_with_one_sentence(
    listed: Listed, clickhouse_client: Client, tape: Tape
) -> None:
    """What the loader meets while the next window is extracted ends the run; repaired, the run goes on from there."""
    listed(tape)
    now_ms = int(tape.trades[-1]["timestamp"])
    go(since=iso(now_ms - DAY_MS // 2))
    clickhouse_client.command("ALTER TABLE deribit_raw.trades ADD CONSTRAINT none CHECK price < 0")
    with pytest.raises(OutsideError) as raised:
        go(since="2016-01-01")
    assert "\n" not in str(raised.value)
    assert "none" in str(raised.value)
    clickhouse_client.command("ALTER TABLE deribit_raw.trades DROP CONSTRAINT none")
    go(since="2016-01-01")
    assert keys_in(clickhouse_client) == keys_of(tape)


def numbers_in(client: Client) -> list[int]:
    return [n for (n,) in client.query("SELECT n FROM deribit_raw.numbers ORDER BY n").result_rows]


def test_a_package_normalized_but_not_yet_deleted_is_loaded_once(
    small_windows: None, clickhouse_client: Client, tmp_path: Path
) -> None:
    """dlt was killed between the two halves of handing a package on; left alone it could never run again."""
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


def test_a_package_complete_but_not_yet_put_away_is_loaded_once(
    small_windows: None, clickhouse_client: Client
) -> None:
    """dlt was killed between its mark on the package and the move to the loaded ones: it would not touch it again."""
    pipeline = open_pipeline(clickhouse_settings())
    pipeline.run([{"n": n} for n in range(5)], table_name="numbers")
    (load_id,) = pipeline.list_completed_load_packages()
    load = Path(pipeline.working_dir) / "load"
    (load / "loaded" / load_id).rename(load / "normalized" / load_id)
    recover(open_pipeline(clickhouse_settings()))
    assert numbers_in(clickhouse_client) == list(range(5))
    assert pipeline.list_completed_load_packages() == [load_id]
    assert not pipeline.has_pending_data


def test_of_packages_loaded_long_ago_nothing_stays(small_windows: None) -> None:
    """A run a minute leaves no more behind than the last few."""
    for n in range(3):
        pipeline = open_pipeline(clickhouse_settings())
        pipeline.run([{"n": n}], table_name="numbers")
    loaded = Path(pipeline.working_dir) / "load" / "loaded"
    last = max(pipeline.list_completed_load_packages())
    for second in range(50):
        shutil.copytree(loaded / last, loaded / f"17000000{second}.0")
    kept = open_pipeline(clickhouse_settings()).list_completed_load_packages()
    assert len(kept) == LOADED_PACKAGES_RETAINED
    assert last in kept


def test_a_state_older_than_its_package_catches_up(
    listed: Listed, clickhouse_client: Client, tape: Tape
) -> None:
    """Killed after the package was complete and before the state was written down: nothing is fetched twice."""
    listed(tape)
    state = Path(open_pipeline(clickhouse_settings()).working_dir) / "state.json"
    go(since=iso(int(tape.trades[-1]["timestamp"]) - DAY_MS))
    before = state.read_text()
    go(since="2016-01-01")
    state.write_text(before)
    assert go(since="2016-01-01").total == 0
    assert keys_in(clickhouse_client) == keys_of(tape)


def test_half_an_extraction_leaves_nothing_on_the_disk(small_windows: None) -> None:
    """What a killed run had half written is deleted by the next one."""
    pipeline = open_pipeline(clickhouse_settings())
    pipeline.run([{"n": 0}], table_name="numbers")
    remains = Path(pipeline.working_dir) / "normalize" / "a1b2c3d4" / "1700000000.0"
    remains.mkdir(parents=True)
    (remains / "trades.0.parquet").write_bytes(os.urandom(100))
    recover(open_pipeline(clickhouse_settings()))
    assert not remains.parent.exists()
