"""Missing trade_seq, compared with those of a naive set."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from extract.sweep.ledger import SeqLedger, SeqRange, missing_in


def ranges(seqs: set[int]) -> list[tuple[int, int]]:
    starts = sorted(seq for seq in seqs if seq - 1 not in seqs)
    ends = sorted(seq for seq in seqs if seq + 1 not in seqs)
    return list(zip(starts, ends, strict=True))


@given(st.lists(st.integers(1, 60)), st.integers(1, 60), st.integers(0, 60))
def test_missing_in_is_the_set_difference(seqs: list[int], first: int, last: int) -> None:
    expected = ranges(set(range(first, last + 1)) - set(seqs))
    assert missing_in(np.array(seqs, dtype=np.int64), first, last) == expected


named = st.dictionaries(st.sampled_from(["A", "B", "C"]), st.sets(st.integers(1, 40), min_size=1))
edges = st.dictionaries(st.sampled_from(["A", "B", "C"]), st.integers(1, 40))


@given(named, edges, edges, st.booleans())
def test_missing_ranges_equal_those_of_a_set(
    seen: dict[str, set[int]], before: dict[str, int], after: dict[str, int], whole: bool
) -> None:
    """Of an instrument: after the trade before, else from 1 or its first trade; to its last trade, or to the next one."""
    ledger = SeqLedger()
    for name, seqs in seen.items():
        for part in (sorted(seqs)[::2], sorted(seqs)[1::2]):
            ledger.add(
                pa.table({"instrument_name": [name] * len(part), "trade_seq": pa.array(part, pa.int64())})
            )
    expected = []
    for name in {*seen, *after}:
        seqs = seen.get(name, set())
        if name in before:
            first = before[name] + 1
        elif whole:
            first = 1
        elif seqs:
            first = min(seqs)
        else:
            continue
        last = max(max(seqs, default=0), after.get(name, 0) - 1)
        expected += [SeqRange(name, *hole) for hole in ranges(set(range(first, last + 1)) - seqs)]
    assert sorted(ledger.missing(before, after, whole)) == sorted(expected)
    assert ledger.last_seqs() == {name: max(seqs) for name, seqs in seen.items()}
    assert ledger.first_seqs() == {name: min(seqs) for name, seqs in seen.items()}


def test_rejected_record_is_not_missing() -> None:
    ledger = SeqLedger()
    ledger.add(pa.table({"instrument_name": ["A", "A"], "trade_seq": [1, 3]}))
    ledger.add_one("A", 2)
    assert ledger.missing({}, {}, True) == []


def test_empty_ledger_has_nothing_missing() -> None:
    assert SeqLedger().missing({"A": 5}, {}, True) == []


@given(st.lists(st.lists(st.integers(1, 30), min_size=1), min_size=1), st.integers(0, 31), st.integers(0, 31))
def test_numbers_that_come_twice_are_known(parts: list[list[int]], first: int, last: int) -> None:
    """Also if both are in one part; a run has each number between its ends."""
    ledger = SeqLedger()
    for part in parts:
        ledger.add(pa.table({"instrument_name": ["A"] * len(part), "trade_seq": pa.array(part, pa.int64())}))
    runs = ledger.by_instrument()["A"]
    seqs = [seq for part in parts for seq in part]
    assert runs.has_duplicates == (len(set(seqs)) < len(seqs))
    assert sorted(runs.within(first, last)) == sorted(seq for seq in seqs if first <= seq <= last)
