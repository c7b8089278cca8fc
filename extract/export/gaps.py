"""Names of the trades that are missing between the exported trades of an instrument."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from extract.clickhouse.client import Database
from extract.coverage.gaps import Scope, find_gaps
from extract.errors import CannotTellError
from extract.export.manifest import GAPS, SEQS, ExportedFile
from extract.export.place import GAPS_PATH, Place, sha256_of
from extract.export.seqs import (
    HOLE_COLUMNS,
    Hole,
    Run,
    holes_between,
    merge_runs,
    name_hole,
    read_runs,
    write_rows,
)

Known = dict[str, list[tuple[int, int, str]]]
"""First and last number, and reason, of the known gaps of each instrument, ascending."""


def write_gaps(database: Database, place: Place, scope: Scope) -> ExportedFile:
    """Write the file of gaps, unless it is there already. `scope`: streams of the export."""
    streams: dict[tuple[str, str], list[str]] = {}
    for files in place.files.values():
        for file in files:
            if file.table == SEQS:
                streams.setdefault((file.partition["kind"], file.partition["underlying"]), []).append(
                    file.path
                )
    known = _known_gaps(database, scope)
    rows = (
        (*stream, *hole[:3], hole.last_missing_seq - hole.first_missing_seq + 1, hole.reason)
        for stream, paths in sorted(streams.items())
        for hole in _holes(place, paths, known)
    )
    scratch = place.store.scratch_file()
    total = write_rows(scratch, rows, HOLE_COLUMNS)
    digest = sha256_of(scratch)
    for file in place.manifest.files:
        if file.table == GAPS and file.sha256 == digest and not place.has_begun:
            scratch.unlink()
            return file
    place.begin()
    return place.publish(GAPS_PATH, GAPS, {}, total, digest)


def _known_gaps(database: Database, scope: Scope) -> Known:
    known: Known = {}
    try:
        gaps = find_gaps(database, scope)
    except CannotTellError:  # no time is covered
        return known
    for gap in gaps:
        reason = "absent" if gap.known_absent else "rejected" if gap.rejected else "missing"
        known.setdefault(gap.range.instrument_name, []).append((gap.range.first, gap.range.last, reason))
    return known


def _holes(place: Place, paths: Iterable[str], known: Known) -> Iterator[Hole]:
    """Holes of one stream, whose runs are in the files at `paths`."""

    def runs() -> Iterator[list[Run]]:
        for path in paths:
            with place.store.local_file(path) as local:
                yield read_runs(local)

    for hole in holes_between(merge_runs(runs())):
        yield from name_hole(hole, known.get(hole.instrument_name, ()))
