"""The pager of holes in trade_seq: what is there comes, what is not is told as absent, in few requests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.sweep.ledger import SeqRange
from extract.sweep.seq_pager import EMPTY_ANSWERS_BEFORE_ABSENT, SeqPager, grouped
from extract.sweep.time_pager import OutsideRangeError

PAGE = 10


def answer(there: set[int], asked: SeqRange) -> np.ndarray:
    """The first PAGE of what is there of a range; a range as wide as a page leaks one from below."""
    inside = sorted(seq for seq in there if asked.first <= seq <= asked.last)[:PAGE]
    if len(asked) == PAGE and len(inside) == PAGE and asked.first - 1 in there:
        inside[PAGE // 2] = asked.first - 1
    return np.array(inside, dtype=np.int64)


@given(st.sets(st.integers(1, 120)), st.sets(st.integers(1, 120), min_size=1))
def test_everything_comes_or_is_absent(there: set[int], missing: set[int]) -> None:
    """Whatever is there and whatever is missing: found and absent are exactly the two parts of it."""
    pager = SeqPager("X", [(seq, seq) for seq in sorted(missing)], PAGE)
    found: set[int] = set()
    asked = 0
    while pager.request is not None:
        asked += 1
        seqs = answer(there, pager.request)
        new = pager.feed(seqs, is_full=len(seqs) == PAGE)
        assert not new & found
        found |= new
    assert found == missing & there
    assert {seq for each in pager.absent for seq in range(each.first, each.last + 1)} == missing - there
    assert asked <= 12 * (EMPTY_ANSWERS_BEFORE_ABSENT + 2) + len(missing)


def test_an_absent_head_costs_a_few_requests_however_long() -> None:
    pager, asked = SeqPager("X", [(1, 300_000_000)], PAGE), 0
    while pager.request is not None:
        asked += 1
        pager.feed(np.array([], dtype=np.int64), is_full=False)
    assert asked == EMPTY_ANSWERS_BEFORE_ABSENT
    assert pager.absent == [SeqRange("X", 1, 300_000_000)]


def test_holes_near_each_other_are_one_request() -> None:
    assert grouped([(1, 1), (5, 6), (10, 10), (11, 11)], PAGE) == [[(1, 1), (5, 6), (10, 10)], [(11, 11)]]


def test_a_full_page_of_others_is_an_error() -> None:
    """A host that answers with other seqs does not make a range absent."""
    pager = SeqPager("X", [(100, 120)], PAGE)
    with pytest.raises(OutsideRangeError, match="100–120 of X"):
        pager.feed(np.arange(1, 11), is_full=True)
