"""Files of an export at their place: what an earlier export has finished, and the steps that keep it whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import msgspec

from extract.errors import UsageError, printable
from extract.export.manifest import (
    GAPS,
    MANIFEST,
    NO_PACKAGES,
    SEQS,
    UNFINISHED,
    VERSION,
    ExportedFile,
    Manifest,
    Scope,
    decode_manifest,
)
from extract.export.parts import DATA
from extract.export.store import Store
from extract.export.tables import TRADES

UNFINISHED_MANIFEST = UNFINISHED + MANIFEST
GAPS_PATH = f"{GAPS}/{DATA['parquet']}"


class Place:
    """A store with the files of one export.

    `files`: the finished ones, by the path of the data, each with the files that were written together with it.
    `manifest`: that of the last finished export. `has_begun`: the manifest was taken away, because files have changed.
    """

    def __init__(self, store: Store, scope: Scope, before_publish: Callable[[str], None]) -> None:
        self.store, self.scope, self._before_publish = store, scope, before_publish
        self.files: dict[str, list[ExportedFile]] = {}
        self.manifest = _empty_manifest(scope, [])
        self.has_begun = False
        self.is_new = True

    def read(self, tables: set[str]) -> None:
        """Read the manifest, and the records of the files that an interrupted export has finished.

        `tables`: names of the tables that the export writes. Raises UsageError if the place has other files, or an export
        with other options.
        """
        sizes = self.store.sizes()
        path = MANIFEST if MANIFEST in sizes else UNFINISHED_MANIFEST
        if path not in sizes:
            if others := [path for path in sizes if not path.startswith(UNFINISHED)]:
                raise UsageError(
                    f"{self.store} has other files, such as {printable(others[0])}; choose an empty folder."
                )
            return
        self.is_new = False
        self.manifest = decode_manifest(self.store.read(path), f"{self.store}/{path}")
        if self.manifest.scope != self.scope:
            raise UsageError(
                f"{self.store} has an export with other options: {self.manifest.scope}. Repeat these, or choose an empty "
                "folder."
            )
        self.has_begun = path != MANIFEST
        entries = self._entries(sizes)
        known = {file.path for files in entries.values() for file in files} | {MANIFEST, GAPS_PATH}
        # An interrupted export may have renamed a file, and not have recorded it yet.
        own = tables | {SEQS} if self.has_begun else set()
        for path in sizes:
            if (
                path not in known
                and not path.startswith(UNFINISHED)
                and PurePosixPath(path).parts[0] not in own
            ):
                raise UsageError(
                    f"{self.store} has a file that is not part of the export: {printable(path)}; move it away."
                )
        self.files = {
            path: files
            for path, files in entries.items()
            if all(sizes.get(file.path) == file.bytes for file in files)
        }

    def _entries(self, sizes: dict[str, int]) -> dict[str, list[ExportedFile]]:
        entries = {file.path: [file] for file in self.manifest.files if file.table not in (SEQS, GAPS)}
        for file in self.manifest.files:
            if file.table == SEQS:
                entries[_data_path(file.path, self.scope.format)].append(file)
        for path in sizes:
            if path.startswith(UNFINISHED) and path.endswith(".json") and path != UNFINISHED_MANIFEST:
                files = msgspec.json.decode(self.store.read(path), type=list[ExportedFile])
                entries[files[0].path] = files
        return entries

    def begin(self) -> None:
        """Take the manifest away before the first file changes."""
        if self.has_begun:
            return
        files = [file for files in self.files.values() for file in files]
        self.store.write(UNFINISHED_MANIFEST, _empty_manifest(self.scope, files).encode())
        self.store.delete(MANIFEST)
        self.has_begun = True

    def publish(
        self,
        path: str,
        table: str,
        partition: dict[str, str],
        rows: int,
        digest: str | None = None,
        fingerprint: str = "",
    ) -> ExportedFile:
        """Move the scratch file to its place. `digest`: its SHA-256, if it is known."""
        scratch = self.store.scratch_file()
        entry = ExportedFile(
            path, table, partition, rows, scratch.stat().st_size, digest or sha256_of(scratch), fingerprint
        )
        self._before_publish(path)
        self.store.publish(path)
        return entry

    def record(self, files: list[ExportedFile]) -> None:
        """Record that files that belong together are finished."""
        self.store.write(_record_path(files[0].path), msgspec.json.encode(files))
        self.files[files[0].path] = files

    def delete(self, path: str) -> None:
        """Delete a file of data, and those that were written together with it."""
        for file in self.files.pop(path):
            self.store.delete(file.path)
        self.store.delete(_record_path(path))

    def finish(self, manifest: Manifest) -> None:
        """Delete what interrupted exports have left, and write the manifest."""
        expected = {file.path for file in manifest.files} | {MANIFEST}
        sizes = self.store.sizes()
        for path in sizes.keys() - expected:
            if not path.startswith(UNFINISHED):
                self.store.delete(path)
        self.store.write(MANIFEST, manifest.encode())
        # The list of files goes last: until then, the records are read with it.
        for path in sorted(sizes, key=lambda path: path == UNFINISHED_MANIFEST):
            if path.startswith(UNFINISHED):
                self.store.delete(path)
        self.manifest = manifest


def seqs_path(path: str) -> str:
    """Path of the runs of a file of trades."""
    return "/".join([SEQS, *path.split("/")[1:-1], DATA["parquet"]])


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _data_path(path: str, format: str) -> str:
    """Path of the file of trades whose runs are at `path`."""
    return "/".join([TRADES.name, *path.split("/")[1:-1], DATA[format]])


def _record_path(path: str) -> str:
    return f"{UNFINISHED}{hashlib.sha256(path.encode()).hexdigest()[:24]}.json"


def _empty_manifest(scope: Scope, files: list[ExportedFile]) -> Manifest:
    return Manifest(VERSION, "", scope, {}, NO_PACKAGES, [], [], {}, files)
