"""Runs of consecutive trade numbers: read from files of trades, stored next to them, and compared with named gaps."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

BATCH_ROWS = 1 << 16
CSV_BLOCK_BYTES = 1 << 20
KEY = ("instrument_name", "trade_seq")


class Run(NamedTuple):
    """Consecutive trade_seq of an instrument, both ends included."""

    instrument_name: str
    first_seq: int
    last_seq: int


class Hole(NamedTuple):
    """Missing trade_seq between two runs of an instrument, both ends included, and why they are missing.

    `absent`: the exchange does not have them. `missing`: a gap of the tape. `rejected`: they could not be read.
    `not_covered`: no time that was loaded, or that is retained, contains them.
    """

    instrument_name: str
    first_missing_seq: int
    last_missing_seq: int
    reason: str


@dataclass(frozen=True)
class Content:
    """What a file contains: rows and, of trades, runs in the order of the file."""

    rows: int
    runs: list[Run]


def read_content(path: Path, *, is_parquet: bool, has_seqs: bool) -> Content:
    """Rows and runs of a file, in memory in proportion to the runs. Raises pyarrow.ArrowException, OSError or ValueError."""
    if is_parquet and not has_seqs:
        return Content(pq.ParquetFile(path).metadata.num_rows, [])
    batches = _parquet_batches(path) if is_parquet else _csv_batches(path, has_seqs)
    rows, runs = 0, list[Run]()
    for batch in batches:
        rows += batch.num_rows
        if has_seqs:
            _append_runs(runs, batch)
    return Content(rows, runs)


def _parquet_batches(path: Path) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path, read_dictionary=[KEY[0]]) as file:
        yield from file.iter_batches(BATCH_ROWS, columns=list(KEY), use_threads=False)


def _csv_batches(path: Path, has_seqs: bool) -> Iterator[pa.RecordBatch]:
    types = {KEY[0]: pa.dictionary(pa.int32(), pa.string()), KEY[1]: pa.int64()}
    if not has_seqs:  # only rows are counted: as text, no value has a wrong type
        with gzip.open(path, "rt", newline="") as file:
            types = dict.fromkeys(next(csv.reader(file), []), pa.string())
    with pa.csv.open_csv(
        pa.input_stream(path, compression="gzip"),
        read_options=pa.csv.ReadOptions(block_size=CSV_BLOCK_BYTES, use_threads=False),
        parse_options=pa.csv.ParseOptions(newlines_in_values=True),
        convert_options=pa.csv.ConvertOptions(include_columns=list(types), column_types=types),
    ) as batches:
        yield from batches


def _append_runs(runs: list[Run], batch: pa.RecordBatch) -> None:
    if not batch.num_rows:
        return
    names = batch.column(KEY[0])
    if not isinstance(names, pa.DictionaryArray):
        names = names.dictionary_encode()
    codes = names.indices.to_numpy(zero_copy_only=False)
    seqs = batch.column(KEY[1]).to_numpy(zero_copy_only=False)
    breaks = np.flatnonzero((codes[1:] != codes[:-1]) | (np.diff(seqs) != 1)) + 1
    starts = np.concatenate(([0], breaks))
    ends = np.concatenate((breaks, [len(seqs)])) - 1
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        run = Run(names.dictionary[int(codes[start])].as_py(), int(seqs[start]), int(seqs[end]))
        if (
            runs
            and runs[-1].instrument_name == run.instrument_name
            and runs[-1].last_seq + 1 == run.first_seq
        ):
            run = Run(run.instrument_name, runs.pop().first_seq, run.last_seq)
        runs.append(run)


def write_rows(path: Path, rows: Iterable[tuple[Any, ...]], columns: dict[str, pa.DataType]) -> int:
    """Write rows as Parquet, in batches; returns how many."""
    schema, total = pa.schema(list(columns.items())), 0
    with pq.ParquetWriter(path, schema, compression="zstd") as file:
        pending: list[tuple[Any, ...]] = []
        for row in rows:
            pending.append(row)
            if len(pending) == BATCH_ROWS:
                file.write_table(_to_table(pending, schema))
                total, pending = total + len(pending), []
        if pending:
            file.write_table(_to_table(pending, schema))
    return total + len(pending)


def _to_table(rows: list[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_arrays(
        [pa.array(values, field.type) for values, field in zip(zip(*rows, strict=True), schema, strict=True)],
        schema=schema,
    )


RUN_COLUMNS = {"instrument_name": pa.string(), "first_seq": pa.int64(), "last_seq": pa.int64()}
HOLE_COLUMNS = {
    "kind": pa.string(),
    "underlying": pa.string(),
    "instrument_name": pa.string(),
    "first_missing_seq": pa.int64(),
    "last_missing_seq": pa.int64(),
    "missing": pa.int64(),
    "reason": pa.string(),
}


def read_runs(path: Path) -> list[Run]:
    """Runs that `write_rows` has written."""
    table = pq.read_table(path, columns=list(RUN_COLUMNS))
    return list(map(Run, *(column.to_pylist() for column in table.columns)))


def read_holes(path: Path) -> dict[tuple[str, str], list[Hole]]:
    """Holes that were written by `HOLE_COLUMNS`, by kind and underlying."""
    holes: dict[tuple[str, str], list[Hole]] = {}
    for row in pq.read_table(path).to_pylist():
        hole = Hole(row["instrument_name"], row["first_missing_seq"], row["last_missing_seq"], row["reason"])
        holes.setdefault((row["kind"], row["underlying"]), []).append(hole)
    return holes


def merge_runs(files: Iterable[Iterable[Run]]) -> list[Run]:
    """Runs of several files of one stream, by instrument and number. Runs that touch are one; overlapping ones stay two."""
    merged: list[Run] = []
    for run in sorted(run for runs in files for run in runs):
        if (
            merged
            and merged[-1].instrument_name == run.instrument_name
            and merged[-1].last_seq + 1 == run.first_seq
        ):
            run = Run(run.instrument_name, merged.pop().first_seq, run.last_seq)
        merged.append(run)
    return merged


def overlaps(runs: Iterable[Run]) -> Iterator[Run]:
    """Numbers that two of the merged `runs` have."""
    for before, after in pairwise(runs):
        if before.instrument_name == after.instrument_name and before.last_seq >= after.first_seq:
            yield Run(after.instrument_name, after.first_seq, min(before.last_seq, after.last_seq))


def holes_between(runs: Iterable[Run]) -> Iterator[Run]:
    """Numbers between the merged `runs` of the same instrument."""
    for before, after in pairwise(runs):
        if before.instrument_name == after.instrument_name and before.last_seq + 1 < after.first_seq:
            yield Run(after.instrument_name, before.last_seq + 1, after.first_seq - 1)


def name_hole(hole: Run, gaps: Iterable[tuple[int, int, str]]) -> Iterator[Hole]:
    """Parts of a hole by reason: `gaps` are the known ones of its instrument, ascending; the rest is not covered."""
    seq = hole.first_seq
    for first, last, reason in gaps:
        first, last = max(first, seq), min(last, hole.last_seq)
        if first > last:
            continue
        if seq < first:
            yield Hole(hole.instrument_name, seq, first - 1, "not_covered")
        yield Hole(hole.instrument_name, first, last, reason)
        seq = last + 1
    if seq <= hole.last_seq:
        yield Hole(hole.instrument_name, seq, hole.last_seq, "not_covered")


def join_holes(holes: Iterable[Hole]) -> list[Run]:
    """Named holes of a stream as ranges; those that touch are one range."""
    return merge_runs(
        [[Run(hole.instrument_name, hole.first_missing_seq, hole.last_missing_seq) for hole in holes]]
    )
