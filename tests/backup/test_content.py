"""What a backup contains while others write, and what the next one makes of an interrupted one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from extract.backup.backup import back_up
from extract.clickhouse.client import Database
from extract.errors import RetriableError
from extract.listener import Listener
from tests.backup.conftest import Backups, raw_content

LATE_LOAD = "1000000000.5"
"""A load package older than all others, as a push may add it."""


@pytest.fixture
def backups(loaded_backups: Backups, tmp_path: Path) -> Backups:
    return Backups(loaded_backups.user, tmp_path / "folder", loaded_backups.key, loaded_backups.content)


class Meddler(Listener):
    """Changes the database between the digests and the reading of the rows, so many times."""

    def __init__(self, change: Callable[[], object], times: int = 1) -> None:
        self.change = change
        self.times_left = times

    def start(self, total: int, unit: str) -> None:
        if self.times_left:
            self.times_left -= 1
            self.change()


def insert_package(database: Database, load_id: str, seq: int, *, status: int | None) -> None:
    """Insert a copy of a trade with another number; the package is listed unless `status` is None."""
    database.command(
        "insert into deribit_raw.trades select * replace ({seq:Int64} as trade_seq, {load:String} as _dlt_load_id) "
        "from deribit_raw.trades order by all limit 1",
        {"seq": seq, "load": load_id},
    )
    if status is not None:
        database.command(
            "insert into deribit_raw._dlt_loads (load_id, status, inserted_at) "
            "values ({load:String}, {status:Int64}, now())",
            {"load": load_id, "status": status},
        )


def delete_package(database: Database, load_id: str) -> None:
    for table, column in (("trades", "_dlt_load_id"), ("_dlt_loads", "load_id")):
        database.command(
            f"delete from deribit_raw.{table} where {column} = {{load:String}}", {"load": load_id}
        )


def restored_content(backups: Backups) -> dict[str, str]:
    """The raw tables after everything was lost and restored."""
    backups.lose_everything()
    done = backups.restore()
    assert done.code == 0, done.output
    return raw_content(backups.user.database)


def test_unfinished_load_packages_are_left_out(backups: Backups) -> None:
    """Those that are not listed, and those that failed."""
    database = backups.user.database
    insert_package(database, "9999999999.5", 10**9, status=None)
    insert_package(database, "9999999998.5", 10**9 + 1, status=1)
    done = backups.back_up()
    assert done.code == 0, done.output
    assert restored_content(backups) == backups.content


def test_rows_deleted_while_they_are_read_are_not_in_the_backup(backups: Backups) -> None:
    """A run prunes dlt's old states meanwhile; the rows are read again."""
    database = backups.user.database
    insert_package(database, LATE_LOAD, 10**9, status=0)
    back_up(str(backups.folder), backups.key, listener=Meddler(lambda: delete_package(database, LATE_LOAD)))
    assert restored_content(backups) == backups.content


def test_package_listed_meanwhile_is_in_the_backup_with_all_its_rows(backups: Backups) -> None:
    """It is older than the newest one, so it cannot be left out."""
    database = backups.user.database
    add = Meddler(lambda: insert_package(database, LATE_LOAD, 10**9, status=0))
    back_up(str(backups.folder), backups.key, listener=add)
    content = raw_content(database)
    assert restored_content(backups) == content
    delete_package(database, LATE_LOAD)
    assert raw_content(database) == backups.content


def test_rows_that_change_all_the_time_end_the_backup(backups: Backups) -> None:
    database = backups.user.database
    seqs = iter(range(10**9, 10**9 + 100))
    add = Meddler(lambda: insert_package(database, LATE_LOAD, next(seqs), status=None), times=100)
    insert_package(database, LATE_LOAD, 10**9 - 1, status=0)
    try:
        with pytest.raises(RetriableError, match="run the same command again"):
            back_up(str(backups.folder), backups.key, listener=add)
        assert not any(path.startswith("backups/") for path in backups.files())
    finally:
        delete_package(database, LATE_LOAD)


def test_files_of_an_interrupted_backup_are_used(backups: Backups) -> None:
    """Without its manifest it does not count. A file that is damaged is written again, and so is one that is missing."""
    assert backups.back_up().code == 0
    written = backups.files()
    backups.file("backups/").unlink()
    assert backups.restore().code == 2
    first, second, *_ = [path for path in written if path.startswith("files/trades/")]
    (backups.folder / first).write_bytes(written[first][:-1])
    (backups.folder / second).unlink()
    done = backups.back_up("--json")
    assert done.code == 0, done.output
    assert json.loads(done.out)["files_written"] == 2
    again = backups.files()
    changed = {path for path in written if path.startswith("files/") and again[path] != written[path]}
    assert changed == {first, second}


@pytest.mark.slow
def test_file_of_an_earlier_backup_that_was_damaged_is_written_again(
    backups: Backups, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its size is the same. Each file is read again on one of thirty days, here on every day."""
    assert backups.back_up().code == 0
    damaged, *_ = sorted(backups.folder.glob("files/trades/*"))
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
    assert backups.restore("--verify").code == 1
    monkeypatch.setattr("extract.backup.backup.CHECK_DAYS", 1)
    for expected in (1, 0):
        done = backups.back_up("--json")
        assert json.loads(done.out)["files_written"] == expected, done.output
    assert backups.restore("--verify").code == 0


@pytest.mark.slow
def test_large_months_are_divided_into_days(backups: Backups) -> None:
    database = backups.user.database
    (most, month), *others = database.rows(
        "select count() as trades, toString(toYYYYMM(timestamp)) as month from deribit_raw.trades "
        "group by month order by trades desc, month"
    )
    assert others[0][0] < most
    back_up(str(backups.folder), backups.key, part_rows=most - 1)
    labels = [
        path.split("/")[2].rsplit("-", 1)[0] for path in backups.files() if path.startswith("files/trades/")
    ]
    days = database.column(
        "select distinct toString(toDate(timestamp)) from deribit_raw.trades where toYYYYMM(timestamp) = {month:UInt32}",
        {"month": int(month)},
    )
    assert sorted(labels) == sorted([*days, *(f"{each[:4]}-{each[4:]}" for _, each in others)])
    assert restored_content(backups) == backups.content


def test_table_of_the_user_is_backed_up(backups: Backups) -> None:
    """Its definition is in the backup, because no run would create it."""
    database = backups.user.database
    database.command(
        "create table deribit_raw.`my notes` (at DateTime('UTC'), `note` Nullable(String) codec(ZSTD(3))) "
        "engine = ReplacingMergeTree(at) partition by toYear(at) order by at"
    )
    database.command(
        "insert into deribit_raw.`my notes` values ('2026-01-01 00:00:00', null), ('2026-01-02 00:00:00', 'x')"
    )
    created = "select create_table_query from system.tables where name = 'my notes'"
    definition = database.value(created)
    rows = database.rows("select * from deribit_raw.`my notes` order by at")
    assert backups.back_up().code == 0
    backups.lose_everything()
    done = backups.restore()
    assert done.code == 0, done.output
    assert database.value(created) == definition
    assert database.rows("select * from deribit_raw.`my notes` order by at") == rows
    database.command("drop table deribit_raw.`my notes` sync")


@pytest.mark.slow
def test_pruned_backups_leave_what_the_newest_needs(backups: Backups) -> None:
    assert backups.back_up().code == 0
    insert_package(backups.user.database, "1000000001.5", 10**9, status=0)
    done = backups.back_up("--keep", "daily=1", "--json")
    delete_package(backups.user.database, "1000000001.5")
    assert done.code == 0, done.output
    assert len(json.loads(done.out)["pruned"]) == 1
    done = backups.back_up("--keep", "daily=1", "--json")
    assert done.code == 0, done.output
    files = {path for path in backups.files() if path.startswith("files/")}
    assert len(files) == json.loads(done.out)["files"]
    assert restored_content(backups) == backups.content
