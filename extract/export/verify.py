"""Prove an export without a database: every file is as it was written, and no trade is missing that is not named."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from extract.errors import CannotTellError
from extract.export.manifest import (
    GAPS,
    MANIFEST,
    SEQS,
    UNFINISHED,
    ExportedFile,
    Manifest,
    decode_manifest,
)
from extract.export.seqs import (
    Hole,
    Run,
    holes_between,
    merge_runs,
    overlaps,
    read_content,
    read_holes,
    read_runs,
)
from extract.export.store import Store
from extract.export.tables import TRADES
from extract.listener import Listener

Stream = tuple[str, str]


@dataclass(frozen=True)
class Problem:
    """A difference between the manifest and a file, which `path` names."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


@dataclass
class VerifyReport:
    """Result of a verification. `gaps`: number of trades that are missing and named, by reason."""

    place: str
    manifest: Manifest
    problems: list[Problem] = field(default_factory=list)
    gaps: dict[str, int] = field(default_factory=dict)

    @property
    def is_proven(self) -> bool:
        return not self.problems

    def to_json(self) -> dict[str, object]:
        return {
            "place": self.place,
            "proven": self.is_proven,
            "files": len(self.manifest.files),
            "rows": sum(table.rows for table in self.manifest.tables.values()),
            "load_packages": self.manifest.load_packages,
            "gaps": self.gaps,
            "problems": self.problems,
        }


def verify(store: Store, listener: Listener | None = None) -> VerifyReport:
    """Compare the files at `store` with their manifest; `listener` receives bytes.

    Every file is there with its SHA-256, its number of rows and, if it has trades, its runs of trade_seq; no other file is
    there; and the trades of each instrument follow each other without a hole that the export does not name. (A file in the
    format of tardis.dev has no trade_seq.) Raises CannotTellError if there is no finished export, ProofError if its manifest
    was changed.
    """
    sizes = store.sizes()
    if MANIFEST not in sizes:
        if any(path.startswith(UNFINISHED) for path in sizes):
            raise CannotTellError(f"The export in {store} is not finished; run the same `tape export` again.")
        raise CannotTellError(f"{store} has no {MANIFEST}, so it is not an export of `tape export`.")
    manifest = decode_manifest(store.read(MANIFEST), f"{store}/{MANIFEST}")
    verification = _Verification(store, manifest, listener or Listener())
    report = VerifyReport(str(store), manifest)
    report.problems = list(verification.run(sizes))
    for holes in verification.holes.values():
        for hole in holes:
            count = hole.last_missing_seq - hole.first_missing_seq + 1
            report.gaps[hole.reason] = report.gaps.get(hole.reason, 0) + count
    return report


class _Verification:
    def __init__(self, store: Store, manifest: Manifest, listener: Listener) -> None:
        self.store, self.manifest, self.listener = store, manifest, listener
        self.files = {file.path: file for file in manifest.files}
        self.seqs = {_rows_of(file): file for file in manifest.files if file.table == SEQS}
        self.runs: dict[str, list[Run]] = {}
        self.holes: dict[Stream, list[Hole]] = {}
        self.has_holes = False

    def run(self, sizes: dict[str, int]) -> Iterator[Problem]:
        for path in sorted(sizes.keys() - self.files.keys() - {MANIFEST}):
            yield Problem(path, "the export does not have this file")
        self.listener.start(sum(file.bytes for file in self.manifest.files), "bytes")
        streams: dict[Stream, list[ExportedFile]] = {}
        for path, file in sorted(self.files.items()):
            if file.table == TRADES.name and self.manifest.scope.format != "tardis":
                streams.setdefault((file.partition["kind"], file.partition["underlying"]), []).append(file)
            elif file.table != SEQS:
                yield from self._check(file)
            if path not in sizes:
                yield Problem(path, "the file is missing")
        for stream, members in streams.items():
            yield from self._check_stream(stream, members)
        for kind, underlying in sorted(self.holes.keys() - streams.keys()):
            yield Problem(
                GAPS,
                f"it names gaps of kind {kind} and underlying {underlying}, of which there are no trades",
            )
        yield from self._check_summaries()

    def _check_stream(self, stream: Stream, members: list[ExportedFile]) -> Iterator[Problem]:
        """Compare the trades of one kind and underlying with the stored runs and the named gaps."""
        problems: list[Problem] = []
        for file in members:
            problems += self._check(file)
            stored = self.seqs.get(_rows_of(file))
            if not stored:
                problems.append(Problem(file.path, "the export has no runs of trade_seq of this file"))
                continue
            problems += self._check(stored)
            own, stored_runs = self.runs.get(file.path), self.runs.pop(stored.path, None)
            if own is not None and stored_runs is not None and own != stored_runs:
                problems.append(Problem(file.path, f"its trade_seq are not those of {stored.path}"))
        is_complete = self.has_holes and all(file.path in self.runs for file in members)
        merged = merge_runs(self.runs.pop(file.path, []) for file in members)
        if is_complete and not problems:  # otherwise a hole is a consequence
            problems += self._check_holes(stream, merged)
        yield from problems

    def _check_holes(self, stream: Stream, merged: list[Run]) -> Iterator[Problem]:
        kind, underlying = stream
        place = f"{TRADES.name}/kind={kind}/underlying={underlying}"
        named = merge_runs([[Run(*hole[:3]) for hole in self.holes.get(stream, ())]])
        for run in overlaps(merged):
            yield Problem(place, f"{_describe(run)} of {run.instrument_name} are there twice")
        for run in overlaps(named):
            yield Problem(place, f"the gap {_describe(run)} of {run.instrument_name} is named twice")
        holes = set(holes_between(merged))
        for run in sorted(holes - set(named)):
            yield Problem(
                place,
                f"{_describe(run)} of {run.instrument_name} are missing, and no gap names exactly these",
            )
        for run in sorted(set(named) - holes):
            yield Problem(place, f"the gap {_describe(run)} of {run.instrument_name} is not between trades")

    def _check(self, file: ExportedFile) -> Iterator[Problem]:
        """Compare one file with its entry, and read its runs or gaps."""
        try:
            with self.store.local_file(file.path) as path:
                yield from self._check_content(file, path)
        except FileNotFoundError:
            return
        except (pa.ArrowException, OSError, ValueError, EOFError) as error:
            yield Problem(
                file.path, f"the file cannot be read: {str(error).splitlines()[0] if str(error) else error!r}"
            )

    def _check_content(self, file: ExportedFile, path: Path) -> Iterator[Problem]:
        with path.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        self.listener.advance(file.bytes)
        if digest != file.sha256:
            yield Problem(file.path, f"its sha256 is {digest}, and was {file.sha256}")
            return
        if file.table == SEQS:
            self.runs[file.path] = read_runs(path)
            rows = len(self.runs[file.path])
        elif file.table == GAPS:
            self.holes, self.has_holes = read_holes(path), True
            rows = sum(map(len, self.holes.values()))
        else:
            has_seqs = file.table == TRADES.name and self.manifest.scope.format != "tardis"
            content = read_content(path, is_parquet=file.path.endswith(".parquet"), has_seqs=has_seqs)
            rows = content.rows
            if has_seqs:
                self.runs[file.path] = content.runs
        if rows != file.rows:
            yield Problem(file.path, f"it has {rows:,} rows, and the manifest names {file.rows:,}")

    def _check_summaries(self) -> Iterator[Problem]:
        for name, table in self.manifest.tables.items():
            own = [file for file in self.manifest.files if file.table == name]
            if (sum(file.rows for file in own), len(own)) != (table.rows, table.files):
                yield Problem(MANIFEST, f"the rows and files of {name} are not those of its files")


def _rows_of(file: ExportedFile) -> tuple[tuple[str, str], ...]:
    """What a file of trades and the one with its runs have in common."""
    return tuple(sorted(file.partition.items()))


def _describe(run: Run) -> str:
    return f"trade_seq {run.first_seq:,} to {run.last_seq:,}"
