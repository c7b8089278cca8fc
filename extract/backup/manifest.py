"""Manifest of a backup: its tables, its files, and the digest of the rows in each of them."""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import msgspec

from extract.backup.keys import BackupKey
from extract.backup.seal import seal, unseal
from extract.errors import ProofError
from extract.export.store import Store

BACKUPS = "backups/"
FILES = "files/"
SUFFIX = ".sealed"
FORMAT = 1


@dataclass(frozen=True)
class BackedUpTable:
    """A table. `columns`: (name, type) in the order of its digests. `definition`: its CREATE statement without its name."""

    name: str
    columns: list[tuple[str, str]]
    definition: str
    has_months: bool


@dataclass(frozen=True)
class BackedUpFile:
    """A file and what is in it: the rows of `table` from `first_day` to `last_day` (YYYYMMDD; 0 for a table without months).

    `keys` and `content`: sums of hashes, modulo 2^64. `bytes` and `sha256`: of the sealed file.
    """

    path: str
    table: str
    first_day: int
    last_day: int
    rows: int
    keys: int
    content: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A backup, by the time at which it began. `newest_load`: the newest load package in it; `source`: URL of the server."""

    format: int
    created_at: datetime
    source: str
    newest_load: str
    dlt_schema: str
    tables: list[BackedUpTable] = field(default_factory=list)
    files: list[BackedUpFile] = field(default_factory=list)

    @property
    def name(self) -> str:
        """`20260131T081500.000Z`."""
        return f"{self.created_at:%Y%m%dT%H%M%S}.{self.created_at.microsecond // 1000:03}Z"

    @property
    def path(self) -> str:
        return f"{BACKUPS}{self.name}{SUFFIX}"

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    @property
    def bytes(self) -> int:
        """Bytes of all files, whether they were written by this backup or an earlier one."""
        return sum(file.bytes for file in self.files)


def write_manifest(store: Store, key: BackupKey, manifest: Manifest) -> None:
    """Write a manifest, complete or not at all."""
    content = zlib.compress(json.dumps(asdict(manifest), default=datetime.isoformat).encode(), 9)
    store.write(manifest.path, b"".join(seal(key, manifest.path, [content])))


def read_manifests(store: Store, key: BackupKey, paths: Sequence[str] | None = None) -> list[Manifest]:
    """The manifests at `paths` (all by default), the oldest first.

    Raises UsageError for another key, and ProofError for a manifest that is not as it was written.
    """
    paths = manifest_paths(store.sizes()) if paths is None else paths
    return [_read_manifest(store, key, path) for path in paths]


def manifest_paths(files: Sequence[str] | dict[str, int]) -> list[str]:
    """Paths of manifests among `files`, the oldest first."""
    return sorted(path for path in files if path.startswith(BACKUPS) and path.endswith(SUFFIX))


def _read_manifest(store: Store, key: BackupKey, path: str) -> Manifest:
    place = f"{store}/{path}"
    try:
        sealed = store.read(path)
    except FileNotFoundError:
        raise ProofError(f"{place} is missing.") from None
    content = b"".join(unseal(key, path, io.BytesIO(sealed), place))
    manifest: dict[str, Any] = json.loads(zlib.decompress(content))
    if manifest.get("format") != FORMAT:
        raise ProofError(
            f"{place} has format {manifest.get('format')}, and this version of tape reads format {FORMAT}: "
            "restore it with the version that wrote it, or a newer one."
        )
    return msgspec.convert(manifest, Manifest)


def file_path(table: BackedUpTable, label: str, digest: tuple[int, int, int]) -> str:
    """Path of the file with the rows of `table` that have this digest: the same for the same rows."""
    facts = json.dumps([table.name, table.columns, label, digest])
    identity = hashlib.blake2b(facts.encode(), digest_size=12).hexdigest()
    return f"{FILES}{quote(table.name, safe='')}/{label}-{identity}.parquet{SUFFIX}"


def now_ms() -> datetime:
    """The time in UTC, in whole milliseconds."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)
