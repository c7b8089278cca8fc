"""The whole cycle: back up, load more, back up again, lose everything, restore, continue to load."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.backup.conftest import DAY_MS, END_MS, KEYS, TAPE, Backups, days_before_end, raw_content
from tests.support.commands import Done

JSON = "--json"


def month_of(trade: dict[str, Any]) -> str:
    return f"{datetime.fromtimestamp(trade['timestamp'] / 1000, UTC):%Y-%m}"


@pytest.fixture(scope="module")
def backed_up(loaded_backups: Backups) -> Backups:
    done = loaded_backups.back_up()
    assert done.code == 0, done.output
    return loaded_backups


def test_trades_are_in_a_file_per_month(backed_up: Backups) -> None:
    months = {month_of(trade) for trade in TAPE.trades if trade["timestamp"] <= END_MS - 10 * DAY_MS}
    files = [path for path in backed_up.files() if path.startswith("files/trades/")]
    assert len(months) > 2
    assert {path.removeprefix("files/trades/")[:7] for path in files} == months
    assert len(files) == len(months)


def test_nothing_readable_is_in_the_files(backed_up: Backups) -> None:
    """Neither rows, nor the names of columns and tables."""
    for path, content in backed_up.files().items():
        for text in (b"PERPETUAL", b"instrument_name", b"deribit_raw"):
            assert text not in content, path


def test_second_backup_writes_only_a_manifest(backed_up: Backups) -> None:
    before = backed_up.files()
    done = backed_up.back_up(JSON)
    assert done.code == 0, done.output
    assert json.loads(done.out)["files_written"] == 0
    after = backed_up.files()
    assert len(after.keys() - before.keys()) == 1
    assert before.items() < after.items()


@dataclass(frozen=True)
class Continued:
    """The user after a day's trades were loaded and backed up. `added`: files that this backup has written."""

    backups: Backups
    added: frozenset[str]
    first_at: datetime

    def restore_first(self, *words: str) -> Done:
        """Restore the backup from before."""
        return self.backups.restore("--at", self.first_at.isoformat(), *words)


@pytest.fixture(scope="module")
def continued(backed_up: Backups) -> Continued:
    before = backed_up.files()
    first_at = backed_up.user.database.value("select max(at) from deribit_runs.backups")
    backed_up.user.load(until=days_before_end(9))
    done = backed_up.back_up()
    assert done.code == 0, done.output
    return Continued(backed_up, frozenset(backed_up.files().keys() - before.keys()), first_at)


def test_only_changed_months_are_written_again(continued: Continued) -> None:
    changed = {
        month_of(trade)
        for trade in TAPE.trades
        if END_MS - 10 * DAY_MS < trade["timestamp"] <= END_MS - 9 * DAY_MS
    }
    written = {path.removeprefix("files/trades/")[:7] for path in continued.added if "/trades/" in path}
    assert written == changed


def test_backups_are_recorded_for_health(continued: Continued) -> None:
    database, folder = continued.backups.user.database, continued.backups.folder
    rows = database.rows("select at, location, rows, bytes, is_proven from deribit_runs.backups order by at")
    assert len(rows) > 1
    for at, location, count, size, is_proven in rows:
        assert datetime.now(UTC) - timedelta(minutes=10) < at < datetime.now(UTC)
        assert (location, is_proven) == (str(folder), True)
        assert size > 10_000
        assert count >= rows[0][2] == sum(text.count("\n") for text in continued.backups.content.values())


@pytest.mark.slow
def test_trial_restore_touches_nothing(continued: Continued) -> None:
    user = continued.backups.user
    before = raw_content(user.database)
    done = continued.backups.restore("--verify", JSON)
    assert done.code == 0, done.output
    report = json.loads(done.out)
    assert report["equal"]
    assert report["verified_only"]
    assert report["trades"] == len(user.keys())
    assert raw_content(user.database) == before


def test_server_that_holds_something_else_is_refused(continued: Continued) -> None:
    """The first backup lacks what was loaded since."""
    before = raw_content(continued.backups.user.database)
    done = continued.restore_first()
    assert done.code == 3
    assert "is not empty, and does not have what backup" in done.err
    assert done.err.rstrip().endswith("tape reset")
    assert raw_content(continued.backups.user.database) == before


def test_server_that_has_the_backup_already_is_left_as_it_is(continued: Continued) -> None:
    done = continued.backups.restore(JSON)
    assert done.code == 0, done.output
    assert json.loads(done.out)["rows_restored"] == 0


@pytest.fixture(scope="module")
def restored(continued: Continued) -> Continued:
    """The first backup, in a server and a TAPE_DIR that had nothing."""
    continued.backups.lose_everything()
    done = continued.restore_first(JSON)
    assert done.code == 0, done.output
    report = json.loads(done.out)
    rows = sum(text.count("\n") for text in continued.backups.content.values())
    assert report["rows"] == report["rows_restored"] == rows
    return continued


def test_restored_database_has_every_row(restored: Continued) -> None:
    assert raw_content(restored.backups.user.database) == restored.backups.content


def test_restored_backup_is_recorded(restored: Continued) -> None:
    recorded = restored.backups.user.database.rows("select at, is_proven from deribit_runs.backups")
    assert recorded == [(restored.first_at, True)]


def test_next_run_requests_only_what_is_new(restored: Continued) -> None:
    """Neither a gap nor a repetition, and no trade of covered time is requested again."""
    user = restored.backups.user
    user.exchange.requests.clear()
    loaded = set(user.keys())
    user.load()
    assert user.keys() == KEYS
    times = {(trade["instrument_name"], trade["trade_seq"]): trade["timestamp"] for trade in TAPE.trades}
    first_new_ms = min(times[key] for key in set(KEYS) - loaded)
    starts = [
        int(request.params["start_timestamp"])
        for request in user.exchange.requests
        if "start_timestamp" in request.params and "trades" in request.path
    ]
    assert starts
    assert min(starts) > first_new_ms - DAY_MS
    assert user.tape("gaps").code == 0
