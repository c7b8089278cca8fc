"""Manifest of an export: every file with its rows and SHA-256, and what the data was proven to be when it was written."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec

from extract.errors import ProofError

MANIFEST = "manifest.json"
UNFINISHED = "_unfinished/"
"""Folder of an export that is not finished: its files that are finished, one JSON file each."""
VERSION = 1
SEQS = "trade_seqs"
"""Table of the runs of consecutive trade_seq in each file of trades."""
GAPS = "trade_gaps"
"""Table of the trade_seq that are missing between the exported trades of an instrument, with the reason."""


@dataclass(frozen=True)
class Scope:
    """What was requested: tables and filters. An empty list of currencies or kinds is all; times are ISO 8601 UTC.

    `since` is included and `until` excluded; null is unbounded.
    """

    format: str
    tables: list[str]
    currencies: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    since: str | None = None
    until: str | None = None

    def __str__(self) -> str:
        """The options of the command."""
        words = [f"--format {self.format}", f"--tables {','.join(self.tables)}"]
        words += [f"--currency {name}" for name in self.currencies] + [
            f"--kind {name}" for name in self.kinds
        ]
        words += [f"--since {self.since}"] if self.since else []
        words += [f"--until {self.until}"] if self.until else []
        return " ".join(words)


@dataclass(frozen=True)
class ExportedFile:
    """One file. `fingerprint` identifies the rows in the database from which it was written."""

    path: str
    table: str
    partition: dict[str, str]
    rows: int
    bytes: int
    sha256: str
    fingerprint: str = ""


@dataclass(frozen=True)
class LoadPackages:
    """The finished load packages that the data comes from. `sha256`: of their sorted ids, one per line."""

    count: int
    first: str
    newest: str
    sha256: str


NO_PACKAGES = LoadPackages(0, "", "", "")


@dataclass(frozen=True)
class TableSummary:
    """Sum of a table's files. `columns`: ClickHouse types by name; `sort`: the order of the rows in each file."""

    rows: int
    files: int
    sort: list[str]
    columns: dict[str, str]


@dataclass(frozen=True)
class Manifest:
    """`source`: mode and databases. `coverage`, `series_coverage`: as in `tape status --json`, with the covered spans."""

    version: int
    created_at: str
    scope: Scope
    source: dict[str, str]
    load_packages: LoadPackages
    coverage: list[dict[str, Any]]
    series_coverage: list[dict[str, Any]]
    tables: dict[str, TableSummary]
    files: list[ExportedFile]

    def encode(self) -> bytes:
        """JSON text. Its last field is the SHA-256 of the others, as compact JSON with sorted keys."""
        content = asdict(self)
        return json.dumps({**content, "sha256": _digest(content)}, indent=1).encode()


def decode_manifest(data: bytes, place: str) -> Manifest:
    """Read a manifest. Raises ProofError where it is not one, or is not as it was written."""
    try:
        content = json.loads(data)
        digest = content.pop("sha256")
        if digest != _digest(content):
            raise ProofError(f"{place} was changed: its sha256 is not that of its content.")
        return msgspec.convert(content, Manifest)
    except (ValueError, TypeError, KeyError, AttributeError, msgspec.ValidationError) as error:
        raise ProofError(f"{place} is not the manifest of an export: {error}") from error


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
