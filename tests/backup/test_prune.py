"""Pruning: which backups a rule retains, and that no file of a retained backup is deleted."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.backup.keys import BackupKey
from extract.backup.manifest import BackedUpFile, Manifest, read_manifests, write_manifest
from extract.backup.prune import parse_keep, prune, retained
from extract.errors import UsageError
from extract.export.store import FolderStore

KEY = BackupKey(bytes(32), Path("a.key"))
NEW_YEAR = datetime(2026, 1, 1, 3, tzinfo=UTC)


def backup_at(at: datetime, *paths: str) -> Manifest:
    files = [BackedUpFile(path, "trades", 20260101, 20260131, 1, 2, 3, 4, "") for path in paths]
    return Manifest(1, at, "http://server", "1", "{}", [], files)


def days_retained(backups: Iterable[Manifest], rule: str) -> list[str]:
    return [f"{each.created_at:%Y-%m-%d}" for each in retained(list(backups), parse_keep(rule, "--keep"))]


def test_days_weeks_and_months_of_a_year_of_daily_backups() -> None:
    """2026-12-31 is a Thursday; the newest backup of a past week is that of its Sunday."""
    backups = [backup_at(NEW_YEAR + timedelta(days=day)) for day in range(365)]
    assert days_retained(backups, "daily=7,weekly=4,monthly=12") == [
        *("2026-01-31", "2026-02-28", "2026-03-31", "2026-04-30", "2026-05-31", "2026-06-30", "2026-07-31"),
        *("2026-08-31", "2026-09-30", "2026-10-31", "2026-11-30", "2026-12-13", "2026-12-20"),
        *("2026-12-25", "2026-12-26", "2026-12-27", "2026-12-28", "2026-12-29", "2026-12-30", "2026-12-31"),
    ]


def test_days_without_a_backup_do_not_count() -> None:
    backups = [backup_at(NEW_YEAR + timedelta(days=day)) for day in (0, 10, 20, 30)]
    assert days_retained(backups, "daily=2") == ["2026-01-21", "2026-01-31"]


def test_several_backups_of_a_day_count_as_one() -> None:
    backups = [backup_at(NEW_YEAR + timedelta(hours=hour)) for hour in range(40)]
    assert [each.created_at.hour for each in retained(backups, {"daily": 2})] == [23, 18]


@given(
    hours=st.sets(st.integers(0, 9000), min_size=1, max_size=60),
    daily=st.integers(0, 5),
    weekly=st.integers(0, 5),
)
def test_newest_backup_is_always_retained(hours: set[int], daily: int, weekly: int) -> None:
    backups = [backup_at(NEW_YEAR + timedelta(hours=hour)) for hour in sorted(hours)]
    chosen = retained(backups, {"daily": daily, "weekly": weekly})
    assert chosen[-1] == backups[-1]
    assert len({each.created_at.date() for each in chosen}) >= min(
        daily, len({each.created_at.date() for each in backups})
    )


@pytest.mark.parametrize(
    "rule", ["", "7", "daily", "daily=", "daily=x", "hourly=3", "daily=0", "daily=7;weekly=4"]
)
def test_wrong_rule_is_a_usage_error(rule: str) -> None:
    with pytest.raises(UsageError, match="--keep"):
        parse_keep(rule, "--keep")


def test_files_that_a_retained_backup_needs_are_not_deleted(tmp_path: Path) -> None:
    """Files are shared by backups; files of no backup, of an interrupted one, are deleted."""
    store = FolderStore(tmp_path)
    contents = [("files/a", "files/b"), ("files/b", "files/c"), ("files/c", "files/d")]
    for path in {"files/interrupted", *(path for each in contents for path in each)}:
        store.write(path, path.encode())
    for day, paths in enumerate(contents):
        write_manifest(store, KEY, backup_at(NEW_YEAR + timedelta(days=day), *paths))
    deleted = prune(store, read_manifests(store, KEY), {"daily": 2})
    assert [each.created_at for each in deleted] == [NEW_YEAR]
    assert {path for path in store.sizes() if path.startswith("files/")} == {"files/b", "files/c", "files/d"}
    assert [each.created_at.day for each in read_manifests(store, KEY)] == [2, 3]


def test_backup_that_is_written_meanwhile_ends_the_prune(tmp_path: Path) -> None:
    """Its files are not known, so none is deleted."""
    store = FolderStore(tmp_path)
    store.write("files/new", b"")
    write_manifest(store, KEY, backup_at(NEW_YEAR))
    known = read_manifests(store, KEY)
    write_manifest(store, KEY, backup_at(NEW_YEAR + timedelta(days=1), "files/new"))
    with pytest.raises(UsageError, match="written by another backup meanwhile"):
        prune(store, known, {"daily": 1})
    assert "files/new" in store.sizes()
