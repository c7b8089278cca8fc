"""Write a backup: digests of all tables, the files that earlier backups do not have, and the manifest."""

from __future__ import annotations

import hashlib
import json
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from extract.backup.exclusive import only_process
from extract.backup.keys import BackupKey, read_key
from extract.backup.manifest import (
    FORMAT,
    BackedUpFile,
    BackedUpTable,
    Manifest,
    file_path,
    now_ms,
    read_manifests,
    write_manifest,
)
from extract.backup.prune import Keep, prune
from extract.backup.record import record_backup
from extract.backup.seal import seal, unseal
from extract.backup.tables import Digests, Part, TableReader, divide, newest_load, read_tables
from extract.clickhouse.client import Database, open_database
from extract.clickhouse.finished import CONSISTENT, LOADS
from extract.clickhouse.settings import clickhouse_settings
from extract.errors import CannotTellError, ProofError, RetriableError
from extract.export.store import Store, open_store
from extract.listener import Listener
from extract.push.database import STATEMENTS as RETENTION
from extract.push.dlt_state import stored_schema

PART_ROWS = 1_000_000
"""Rows of a month from which on it is divided into days, so that a restore needs little memory for a file."""
ROUNDS = 5
"""Times that rows are read again which changed while they were read."""
PARQUET_END = b"PAR1"
CHECK_DAYS = 30
"""Days within which daily backups read each file of earlier ones again, to write anew what was damaged since."""

READ_SETTINGS: Mapping[str, Any] = {
    **CONSISTENT,
    "output_format_parquet_compression_method": "zstd",
    "output_format_parquet_row_group_size": 1 << 17,
    "output_format_parquet_string_as_string": 1,
    "output_format_parquet_datetime_as_uint32": 0,
    "max_execution_time": 0,
    "final": 0,
}


@dataclass
class BackupReport:
    """Result of a backup. `written` of the `files` are new, with `written_bytes`; `pruned`: names of deleted backups.

    `dropped`: months (YYYYMM) that retention dropped from the raw trades; only the models may have them, and no backup.
    """

    name: str
    location: str
    rows: int
    bytes: int
    files: int
    written: int
    written_bytes: int
    seconds: float
    months: int
    dropped: list[int] = field(default_factory=list)
    pruned: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "backup": self.name,
            "location": self.location,
            "proven": True,
            "rows": self.rows,
            "bytes": self.bytes,
            "months": self.months,
            "files": self.files,
            "files_written": self.written,
            "bytes_written": self.written_bytes,
            "months_dropped": [f"{month // 100}-{month % 100:02}" for month in self.dropped],
            "pruned": self.pruned,
            "seconds": round(self.seconds, 3),
        }


def back_up(
    place: str,
    key_file: Path,
    *,
    keep: Keep | None = None,
    listener: Listener | None = None,
    part_rows: int = PART_ROWS,
) -> BackupReport:
    """Back up the raw database of CLICKHOUSE_MODE into a folder or `s3://bucket/prefix`, then prune by `keep`.

    Runs may load meanwhile: the backup has the load packages that were finished when it began. A backup that was
    interrupted has no manifest; the next one uses its files. Raises UsageError for a key that is missing, or another one
    than that of earlier backups, CannotTellError where nothing is loaded, ProofError where an earlier backup is damaged,
    and OutsideError.
    """
    started_s = time.monotonic()
    key = read_key(key_file, place)
    settings = clickhouse_settings()
    with only_process("backup"), open_store(place, is_new=True) as store:
        database = open_database(settings)
        try:
            manifests = read_manifests(store, key)
            backup = _Backup(store, key, database, manifests, listener or Listener(), part_rows)
            manifest = backup.run()
            record_backup(database, str(store), manifest)
            dropped = _dropped_months(database)
        finally:
            database.close()
        pruned = prune(store, [*manifests, manifest], keep) if keep else []
    return BackupReport(
        manifest.name,
        str(store),
        manifest.rows,
        manifest.bytes,
        len(manifest.files),
        len(backup.written),
        sum(file.bytes for file in backup.written.values()),
        time.monotonic() - started_s,
        len({file.first_day // 100 for file in manifest.files if file.first_day}),
        dropped,
        [each.name for each in pruned],
    )


def _dropped_months(database: Database) -> list[int]:
    if not database.value(RETENTION["has_retention_drops"], None, CONSISTENT):
        return []
    return sorted(database.column(RETENTION["dropped_months"], None, CONSISTENT))


class _RowsChangedError(Exception):
    """The rows of a part changed while they were read: dlt's old states were pruned, or a month was dropped."""


@dataclass
class _Backup:
    """One backup. `written`: the files that it has written, by path."""

    store: Store
    key: BackupKey
    database: Database
    earlier: list[Manifest]
    listener: Listener
    part_rows: int
    written: dict[str, BackedUpFile] = field(default_factory=dict)

    def run(self) -> Manifest:
        created_at = now_ms()
        tables = read_tables(self.database)
        newest = newest_load(self.database) if LOADS in tables else None
        if not newest:
            raise CannotTellError(
                f"Nothing is loaded at {self.database.settings.url} yet, so there is nothing to back up; "
                "run: dlt pipeline run"
            )
        schema = json.dumps(stored_schema(self.database.settings).to_dict())
        known = {file.path: file for manifest in self.earlier for file in manifest.files}
        sizes = self.store.sizes()
        readers = {name: TableReader(self.database, table, newest) for name, table in tables.items()}
        for _ in range(ROUNDS):
            # The list of load packages first: what is added to it meanwhile may be in the other tables.
            digests = {name: readers[name].digests() for name in (LOADS, *sorted(readers.keys() - {LOADS}))}
            try:
                files = self._write_missing(readers, digests, known, sizes)
            except _RowsChangedError:
                continue
            if readers[LOADS].digests() == digests[LOADS]:
                break
        else:
            raise RetriableError(
                "Rows of finished load packages were added or deleted while they were read, by a push, a retention or "
                "another run; run the same command again."
            )
        self._require_all(files)
        manifest = Manifest(
            FORMAT,
            created_at,
            self.database.settings.url,
            newest,
            schema,
            list(tables.values()),
            files,
        )
        write_manifest(self.store, self.key, manifest)
        return manifest

    def _write_missing(
        self,
        readers: Mapping[str, TableReader],
        digests: Mapping[str, Digests],
        known: Mapping[str, BackedUpFile],
        sizes: Mapping[str, int],
    ) -> list[BackedUpFile]:
        """The files with the rows of these digests, of which those that are missing are written now."""
        planned = [
            (reader, part, file_path(reader.table, part.label, part.digest))
            for name, reader in readers.items()
            for part in divide(reader.table, digests[name], self.part_rows)
        ]
        files = {path: file for path, file in known.items() if sizes.get(path) == file.bytes} | self.written
        for path in {path for _, _, path in planned if path in files and path not in self.written}:
            if _is_due(path) and not self._is_whole(files[path]):
                del files[path]
        missing = [part.digest.rows for _, part, path in planned if path not in files]
        self.listener.start(sum(missing), "rows")
        for reader, part, path in planned:
            if path not in files:
                files[path] = self._resume(reader.table, part, path, sizes) or self._write(reader, part, path)
                self.listener.advance(part.digest.rows)
        return [files[path] for _, _, path in planned]

    def _write(self, reader: TableReader, part: Part, path: str) -> BackedUpFile:
        sql, parameters = reader.select(part)
        stream = self.database.stream(sql, "Parquet", dict(parameters), dict(READ_SETTINGS))
        with self.store.scratch_file().open("wb") as scratch:
            for piece in seal(self.key, path, stream):
                scratch.write(piece)
        if reader.digest(part) != part.digest:
            raise _RowsChangedError
        self.store.publish(path)
        self.written[path] = self._read_back(reader.table, part, path)
        return self.written[path]

    def _resume(
        self, table: BackedUpTable, part: Part, path: str, sizes: Mapping[str, int]
    ) -> BackedUpFile | None:
        """The file of a backup that was interrupted, if it is as it was written."""
        if path not in sizes:
            return None
        try:
            return self._read_back(table, part, path)
        except ProofError:
            return None

    def _read_back(self, table: BackedUpTable, part: Part, path: str) -> BackedUpFile:
        """Read a whole file from the store. Raises ProofError where it is not a sealed, complete Parquet file."""
        size, sha256 = check_file(self.store, self.key, path)
        return BackedUpFile(path, table.name, part.first_day, part.last_day, *part.digest, size, sha256)

    def _is_whole(self, file: BackedUpFile) -> bool:
        try:
            return check_file(self.store, self.key, file.path) == (file.bytes, file.sha256)
        except ProofError:
            return False

    def _require_all(self, files: list[BackedUpFile]) -> None:
        sizes = self.store.sizes()
        if missing := [file.path for file in files if sizes.get(file.path) != file.bytes]:
            raise RetriableError(
                f"{self.store}/{missing[0]} was deleted or replaced meanwhile, by another backup into the same place; "
                "run the same command again."
            )


def _is_due(path: str) -> bool:
    """Whether a file of an earlier backup is read again today, as a different share of the files is on each day."""
    return zlib.crc32(path.encode()) % CHECK_DAYS == now_ms().toordinal() % CHECK_DAYS


def check_file(store: Store, key: BackupKey, path: str) -> tuple[int, str]:
    """Size and SHA-256 of a sealed file. Raises ProofError where it is missing, damaged or no complete Parquet file."""
    place = f"{store}/{path}"
    try:
        with store.local_file(path) as copy, copy.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
            file.seek(0)
            end = b""
            for piece in unseal(key, path, file, place):
                end = (end + piece)[-len(PARQUET_END) :]
    except FileNotFoundError:
        raise ProofError(f"{place} is missing.") from None
    if end != PARQUET_END:
        raise ProofError(f"{place} is not complete: the server ended its answer early.")
    return size, sha256
