"""Restore a backup into an empty server, and prove that it has exactly the rows of the backup."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from extract.backup.backup import check_file
from extract.backup.exclusive import only_process
from extract.backup.keys import BackupKey, read_key
from extract.backup.manifest import BackedUpFile, BackedUpTable, Manifest, manifest_paths, read_manifests
from extract.backup.record import begun_restores, record_backup, record_restore
from extract.backup.seal import unseal
from extract.backup.tables import Digest, Digests, Part, TableReader, add_up, create_sql, read_tables
from extract.clickhouse.client import Database, open_database
from extract.clickhouse.create import create_missing
from extract.clickhouse.embedded.server import embedded_server
from extract.clickhouse.finished import LOADS
from extract.clickhouse.lease import Lease
from extract.clickhouse.refresh import refresh
from extract.clickhouse.settings import RAW_DATABASE, ClickHouseSettings, clickhouse_settings
from extract.errors import CannotTellError, ProofError, RetriableError, UsageError
from extract.export.store import Store, open_store
from extract.listener import Listener
from extract.paths import tape_dir
from extract.pipeline.session import default_holder_id, run_lock
from extract.push.dlt_state import create_tables, parse_schema
from extract.times import iso

TRIAL = "trial-restore"
ATTEMPTS = 3
"""Times that a file is inserted whose rows do not arrive completely."""
INSERT_SETTINGS: Mapping[str, Any] = {
    "async_insert": 0,
    "insert_deduplicate": 0,
    "deduplicate_insert": "disable",
    "max_insert_threads": 1,
    "max_execution_time": 0,
}


@dataclass(frozen=True)
class RestoreReport:
    """Result of a restore. `restored` rows were inserted now, of `rows` in all, which are proven equal to the backup's.

    `trades` by month (YYYYMM).
    """

    name: str
    location: str
    created_at: datetime
    rows: int
    restored: int
    trades: dict[int, int]
    files: int
    bytes: int
    seconds: float
    is_trial: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "backup": self.name,
            "location": self.location,
            "equal": True,
            "verified_only": self.is_trial,
            "rows": self.rows,
            "rows_restored": self.restored,
            "trades": sum(self.trades.values()),
            "months": {f"{month // 100}-{month % 100:02}": rows for month, rows in self.trades.items()},
            "files": self.files,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
        }


def restore(
    place: str,
    key_file: Path,
    *,
    at_ms: int | None = None,
    verify: bool = False,
    listener: Listener | None = None,
) -> RestoreReport:
    """Restore the newest backup, or the newest one up to `at_ms`, into the server of CLICKHOUSE_MODE.

    With `verify`, into a server that is started for it, and deleted in the end. Nothing is written before every file of
    the backup has been read and is as it was written. A restore that was interrupted is resumed. Raises UsageError for
    another key and for a server that holds anything else, CannotTellError where there is no backup, ProofError where one
    is damaged or the result differs, and OutsideError.
    """
    started_s = time.monotonic()
    key = read_key(key_file, place)
    with open_store(place, is_new=False) as store:
        manifest = _choose(store, key, at_ms)
        work = _Restore(store, key, manifest, listener or Listener())
        work.check_files()
        with _trial_server() if verify else _target() as (settings, require_lease):
            database = open_database(settings)
            try:
                restored = work.run(database, require_lease)
                if restored and not verify:
                    record_backup(database, str(store), manifest)
                    refresh(database)
            finally:
                database.close()
    trades: dict[int, int] = {}
    for file in manifest.files:
        if file.table == "trades":
            month = file.first_day // 100
            trades[month] = trades.get(month, 0) + file.rows
    return RestoreReport(
        manifest.name,
        str(store),
        manifest.created_at,
        manifest.rows,
        restored,
        trades,
        len(manifest.files),
        manifest.bytes,
        time.monotonic() - started_s,
        verify,
    )


def _choose(store: Store, key: BackupKey, at_ms: int | None) -> Manifest:
    paths = manifest_paths(store.sizes())
    if at_ms is not None:
        manifests = [
            each for each in read_manifests(store, key, paths) if each.created_at.timestamp() * 1000 <= at_ms
        ]
        if not manifests and paths:
            raise CannotTellError(f"{store} has no backup that began by {iso(at_ms)}; name a later time.")
    else:
        manifests = read_manifests(store, key, paths[-1:])
    if not manifests:
        raise CannotTellError(
            f"There is no backup in {store}; make one with: tape backup --to {store} --key-file {key.path}"
        )
    return manifests[-1]


Target = tuple[ClickHouseSettings, Callable[[], None]]
"""A server, and a function that raises OutsideError where another run may load into it."""


@contextmanager
def _target() -> Iterator[Target]:
    """The server of CLICKHOUSE_MODE, while no run loads into it."""
    settings = clickhouse_settings()
    database = open_database(settings)
    try:
        with run_lock(), Lease(database, default_holder_id()) as lease:
            yield settings, lease.require_held
    finally:
        database.close()


@contextmanager
def _trial_server() -> Iterator[Target]:
    """An embedded server with a directory of its own below TAPE_DIR, both of which are deleted in the end."""
    with only_process("trial restore"):
        scratch = tape_dir() / TRIAL
        shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed
        try:
            with embedded_server(scratch) as settings:
                yield settings, lambda: None
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@dataclass
class _Restore:
    """A restore of one backup."""

    store: Store
    key: BackupKey
    manifest: Manifest
    listener: Listener

    def check_files(self) -> None:
        """Read all files. Raises ProofError for the first one that is missing or not as it was written."""
        sizes = self.store.sizes()
        files = self.manifest.files
        for file in files:
            if file.path not in sizes:
                raise ProofError(
                    f"{self.store}/{file.path} is missing, and backup {self.manifest.name} needs it."
                )
        self.listener.start(sum(file.bytes for file in files), "bytes checked")
        for file in files:
            if check_file(self.store, self.key, file.path) != (file.bytes, file.sha256):
                raise ProofError(
                    f"{self.store}/{file.path} is not the file that backup {self.manifest.name} was proven with."
                )
            self.listener.advance(file.bytes)

    def run(self, database: Database, require_lease: Callable[[], None]) -> int:
        """Insert what is missing and prove the result; the number of rows inserted."""
        if self._is_restored(database):
            return 0
        record_restore(database, str(self.store), self.manifest, is_complete=False)
        self._create_tables(database)
        readers = {table.name: TableReader(database, table) for table in self.manifest.tables}
        self.listener.start(self.manifest.rows, "rows")
        # A load package counts as loaded once it is listed: last, after everything else has been proven.
        restored = self._restore_tables([reader for name, reader in readers.items() if name != LOADS])
        require_lease()
        restored += self._restore_tables([readers[LOADS]])
        record_restore(database, str(self.store), self.manifest, is_complete=True)
        return restored

    def _restore_tables(self, readers: Sequence[TableReader]) -> int:
        """Insert the files of some tables, then compare the tables; the number of rows inserted."""
        restored = 0
        for reader in readers:
            for file in self._files(reader.table.name):
                restored += self._insert(reader, file)
                self.listener.advance(file.rows)
        for reader in readers:
            if difference := self._difference(reader.table.name, reader.digests()):
                raise ProofError(f"The restored database is not equal to the backup: {difference}.")
        return restored

    def _files(self, table: str) -> list[BackedUpFile]:
        return [file for file in self.manifest.files if file.table == table]

    def _is_restored(self, database: Database) -> bool:
        """Whether the server has exactly the backup; False where it is empty, or a restore of it was interrupted.

        Raises UsageError where the server holds anything else.
        """
        existing = read_tables(database)
        held = {name: TableReader(database, table).digests() for name, table in existing.items()}
        rows = {name: add_up(digests.values()).rows for name, digests in held.items()}
        if not any(rows.values()):
            return False
        tables = {table.name for table in self.manifest.tables}
        differing = {
            name: f"there is no {RAW_DATABASE}.{name}"
            if name not in existing
            else self._column_difference(existing[name]) or self._difference(name, held[name])
            for name in tables
        } | {
            name: f"{RAW_DATABASE}.{name} has {count:,} rows, and the backup does not have the table"
            for name, count in rows.items()
            if count and name not in tables
        }
        differing = {name: difference for name, difference in differing.items() if difference}
        is_begun = self.manifest.name in begun_restores(database)
        if is_begun and differing and (not rows.get(LOADS) or differing.keys() == {LOADS}):
            return False
        if differing:
            raise UsageError(
                f"The server at {database.settings.url} is not empty, and does not have what backup "
                f"{self.manifest.name} has: {differing[min(differing)]}. Restore into an empty server, or empty this "
                "one with: tape reset"
            )
        return True

    def _create_tables(self, database: Database) -> None:
        """Create missing tables as a run does, and tables that no run creates as they were."""
        tables = {table.name: table for table in self.manifest.tables}
        schema = parse_schema(self.manifest.dlt_schema)
        create_tables(database.settings, schema, tables)
        others = {name: create_sql(table) for name, table in tables.items() if name not in schema.tables}
        create_missing(database, RAW_DATABASE, others)
        existing = read_tables(database)
        for name in tables:
            if difference := self._column_difference(existing[name]):
                raise ProofError(
                    f"{difference}, so rows of the backup do not fit: restore with the version of tape that wrote it."
                )

    def _column_difference(self, existing: BackedUpTable) -> str | None:
        """A column that a table of the server and of the backup do not have alike, in a sentence; None if there is none."""
        name = existing.name
        columns = next(table.columns for table in self.manifest.tables if table.name == name)
        types = dict(existing.columns)
        differing = [column for column, type_ in columns if types.pop(column, None) != type_]
        if differing := [*differing, *types]:
            return (
                f"{RAW_DATABASE}.{name} does not have the same column {differing[0]} here and in the backup"
            )
        return None

    def _insert(self, reader: TableReader, file: BackedUpFile) -> int:
        """Insert a file unless its rows are there; delete what an interrupted insert has left before."""
        part = Part("", file.first_day, file.last_day, Digest(file.rows, file.keys, file.content))
        if (current := reader.digest(part)) == part.digest:
            return 0
        for _ in range(ATTEMPTS):
            if current.rows:
                reader.delete(part)
            try:
                self._send(reader, file)
            except RetriableError:
                if reader.digest(part) == current:
                    raise
            if (current := reader.digest(part)) == part.digest:
                return file.rows
        raise ProofError(
            f"{reader.raw.identifier} has {current.rows:,} rows after {self.store}/{file.path} was inserted, which are "
            f"not the {file.rows:,} rows of the backup."
        )

    def _send(self, reader: TableReader, file: BackedUpFile) -> None:
        with self.store.local_file(file.path) as copy, copy.open("rb") as sealed:
            content = unseal(self.key, file.path, sealed, f"{self.store}/{file.path}")
            reader.database.insert_stream(
                reader.raw.identifier,
                reader.raw.column_names,
                content,
                "Parquet",
                dict(INSERT_SETTINGS),
            )

    def _difference(self, name: str, digests: Digests) -> str | None:
        """How the rows of a table differ from those of the backup; None if they are equal."""
        files = self._files(name)
        for file in files:
            days = [digest for day, digest in digests.items() if file.first_day <= day <= file.last_day]
            total = add_up(days)
            if total != (file.rows, file.keys, file.content):
                what = (
                    f"{total.rows:,} rows instead of {file.rows:,}"
                    if total.rows != file.rows
                    else "rows with other content"
                )
                return f"{RAW_DATABASE}.{name} has {what}{_period(file)}"
        if (more := add_up(digests.values()).rows - sum(file.rows for file in files)) > 0:
            return f"{RAW_DATABASE}.{name} has {more:,} rows more than the backup"
        return None


def _period(file: BackedUpFile) -> str:
    """The time of a file in a sentence."""
    if not file.first_day:
        return ""
    first = datetime.strptime(str(file.first_day), "%Y%m%d").replace(tzinfo=UTC)
    return f" in {first:%Y-%m-%d}" if file.first_day == file.last_day else f" in {first:%Y-%m}"
