"""What a restore refuses, by name, before it writes anything."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from extract.paths import tape_dir
from tests.backup.conftest import Backups, raw_content, write_key


@pytest.fixture(scope="module")
def saved(loaded_backups: Backups) -> Backups:
    """One backup, and a server that is empty."""
    done = loaded_backups.back_up()
    assert done.code == 0, done.output
    loaded_backups.lose_everything()
    return loaded_backups


@pytest.fixture
def altered(saved: Backups, tmp_path: Path) -> Iterator[Backups]:
    """The backup in a folder that the test may change; afterwards the server is still empty."""
    shutil.copytree(saved.folder, tmp_path / "folder")
    yield Backups(saved.user, tmp_path / "folder", saved.key, saved.content)
    assert raw_content(saved.user.database) == {}


def refusal(backups: Backups, code: int, *words: str) -> str:
    """The sentence with which a restore is refused."""
    done = backups.restore(*words)
    assert (done.code, done.out) == (code, ""), done.output
    assert done.err.count("\n") == 1, done.err
    return done.err


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", ["files/trades/", "files/_dlt_pipeline_state/", "backups/"])
def test_flipped_bit_is_refused_by_name(altered: Backups, kind: str, share: float) -> None:
    path = next(path for path in altered.files() if path.startswith(kind))
    content = bytearray((altered.folder / path).read_bytes())
    content[int(share * (len(content) - 1))] ^= 1
    (altered.folder / path).write_bytes(content)
    assert f"{altered.folder / path} is damaged" in refusal(altered, 1)


def test_missing_file_is_refused_by_name(altered: Backups) -> None:
    path = next(path for path in altered.files() if path.startswith("files/trades/"))
    (altered.folder / path).unlink()
    assert f"{altered.folder / path} is missing" in refusal(altered, 1)


def test_shortened_file_is_refused_by_name(altered: Backups) -> None:
    path = next(path for path in altered.files() if path.startswith("files/trades/"))
    os.truncate(altered.folder / path, 1000)
    assert f"{altered.folder / path} is damaged" in refusal(altered, 1)


def test_files_that_have_changed_places_are_refused(altered: Backups) -> None:
    first, second = [path for path in altered.files() if path.startswith("files/trades/")][:2]
    content = altered.files()
    (altered.folder / first).write_bytes(content[second])
    (altered.folder / second).write_bytes(content[first])
    assert f"{altered.folder / first} is damaged" in refusal(altered, 1)


def test_foreign_key_is_refused_by_name(altered: Backups, tmp_path: Path) -> None:
    foreign = Backups(altered.user, altered.folder, write_key(tmp_path / "foreign.key"), {})
    sentence = refusal(foreign, 3)
    assert "is encrypted with key" in sentence
    assert f"{tmp_path / 'foreign.key'} has key" in sentence


def test_backup_with_another_key_into_the_same_folder_is_refused(altered: Backups, tmp_path: Path) -> None:
    """It could neither use the files of earlier backups nor prune them."""
    foreign = Backups(altered.user, altered.folder, write_key(tmp_path / "foreign.key"), {})
    done = foreign.back_up()
    assert (done.code, done.out) == (3, "")
    assert "is encrypted with key" in done.err


def test_folder_without_a_backup_cannot_be_restored(altered: Backups, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    empty = Backups(altered.user, tmp_path / "empty", altered.key, {})
    assert "There is no backup in" in refusal(empty, 2)
    missing = Backups(altered.user, tmp_path / "missing", altered.key, {})
    assert "There is no folder" in refusal(missing, 3)


def test_time_before_the_first_backup_is_refused(altered: Backups) -> None:
    assert "has no backup that began by 2020-01-01T00:00:00Z" in refusal(altered, 2, "--at", "2020-01-01")


def test_empty_server_cannot_be_backed_up(altered: Backups, tmp_path: Path) -> None:
    done = altered.back_up(place=str(tmp_path / "new"))
    assert (done.code, done.out) == (2, "")
    assert "nothing to back up; run: dlt pipeline run" in done.err


def test_interrupted_restore_does_not_count_and_is_resumed(saved: Backups, tmp_path: Path) -> None:
    """As a kill leaves it: some rows of some tables, and no load package that counts as loaded."""
    database = saved.user.database
    done = saved.restore("--json")
    assert done.code == 0, done.output
    database.command("truncate table deribit_raw._dlt_loads")
    month = database.value("select min(toYYYYMM(timestamp)) from deribit_raw.trades")
    database.command(
        f"delete from deribit_raw.trades where toYYYYMM(timestamp) = {month} and trade_seq % 2 = 0"
    )
    database.command("truncate table deribit_raw.coverage")
    assert raw_content(database) != saved.content
    done = saved.restore("--json")
    assert done.code == 0, done.output
    assert 0 < json.loads(done.out)["rows_restored"] < json.loads(done.out)["rows"]
    assert raw_content(database) == saved.content
    saved.lose_everything()
    tape_dir().mkdir()
