"""Runs of trade numbers and named gaps, against sets of numbers."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.export import seqs
from extract.export.seqs import RUN_COLUMNS, Run, holes_between, merge_runs, name_hole, overlaps

NAMES = ("A", "B", "C")
KEYS = st.sets(st.tuples(st.sampled_from(NAMES), st.integers(1, 40)))


def numbers(runs: list[Run]) -> list[tuple[str, int]]:
    return [(run.instrument_name, seq) for run in runs for seq in range(run.first_seq, run.last_seq + 1)]


def runs_of_file(path: Path, keys: set[tuple[str, int]]) -> list[Run]:
    names, values = ([key[at] for key in sorted(keys)] for at in (0, 1))
    table = pa.table(
        {"instrument_name": pa.array(names, pa.string()), "trade_seq": pa.array(values, pa.int64())}
    )
    pq.write_table(table, path, row_group_size=7)
    content = seqs.read_content(path, is_parquet=True, has_seqs=True)
    assert content.rows == len(keys)
    return content.runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@settings(max_examples=25)
@given(keys=KEYS, border=st.integers(1, 40))
def test_runs_of_files_have_every_number_once(folder: Path, keys: set[tuple[str, int]], border: int) -> None:
    """Runs are maximal and in order, in one file and in two files that are merged."""
    path = folder / "data.parquet"
    whole = runs_of_file(path, keys)
    assert numbers(whole) == sorted(keys)
    assert all((run.instrument_name, run.last_seq + 1) not in keys for run in whole)
    earlier = {key for key in keys if key[1] < border}
    assert merge_runs([runs_of_file(path, keys - earlier), runs_of_file(path, earlier)]) == whole
    assert not list(overlaps(whole))


@given(keys=KEYS)
def test_holes_are_the_numbers_between_those_of_an_instrument(keys: set[tuple[str, int]]) -> None:
    runs = merge_runs([[Run(name, seq, seq) for name, seq in keys]])
    expected = [
        (name, seq)
        for name in NAMES
        if (own := [seq for other, seq in keys if other == name])
        for seq in range(min(own), max(own))
        if (name, seq) not in keys
    ]
    assert numbers(list(holes_between(runs))) == expected


@given(first=KEYS, second=KEYS)
def test_numbers_in_two_files_overlap(first: set[tuple[str, int]], second: set[tuple[str, int]]) -> None:
    """A trade in two files is reported, and only then."""
    single = [[Run(name, seq, seq) for name, seq in sorted(keys)] for keys in (first, second)]
    assert bool(list(overlaps(merge_runs(single)))) == bool(first & second)


def test_hole_is_divided_by_reason() -> None:
    """What no known gap contains is not covered; gaps that reach beyond the hole are cut."""
    parts = list(name_hole(Run("A", 10, 20), [(1, 10, "absent"), (12, 13, "missing"), (19, 99, "rejected")]))
    assert [part[1:] for part in parts] == [
        (10, 10, "absent"),
        (11, 11, "not_covered"),
        (12, 13, "missing"),
        (14, 18, "not_covered"),
        (19, 20, "rejected"),
    ]


def test_runs_are_read_as_they_were_written(tmp_path: Path) -> None:
    """Also in more than one batch."""
    runs = [Run(f"I{n:06}", n, n + 5) for n in range(seqs.BATCH_ROWS + 3)]
    path = tmp_path / "runs.parquet"
    assert seqs.write_rows(path, runs, RUN_COLUMNS) == len(runs)
    assert seqs.read_runs(path) == runs
