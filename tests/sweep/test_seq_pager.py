"""Missing trade_seq are fetched or reported as absent, in few requests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.sweep.ledger import SeqRange
from extract.sweep.seq_pager import EMPTY_ANSWERS_BEFORE_ABSENT, SeqPager, group_holes
from extract.sweep.time_pager import OutsideRangeError

PAGE = 10


def answer(existing: set[int], request: SeqRange) -> np.ndarray:
    """The first PAGE existing trades of a range; in a full page, one from below the range replaces one of it."""
    inside = sorted(seq for seq in existing if request.first <= seq <= request.last)[:PAGE]
    if len(request) == PAGE and len(inside) == PAGE and request.first - 1 in existing:
        inside[PAGE // 2] = request.first - 1
    return np.array(inside, dtype=np.int64)


@given(st.sets(st.integers(1, 120)), st.sets(st.integers(1, 120), min_size=1))
def test_each_missing_trade_is_fetched_or_absent(existing: set[int], missing: set[int]) -> None:
    """The missing trades that exist are fetched, and exactly the others are absent."""
    pager = SeqPager("X", [(seq, seq) for seq in sorted(missing)], PAGE)
    fetched: set[int] = set()
    requests = 0
    while pager.request is not None:
        requests += 1
        seqs = answer(existing, pager.request)
        new = pager.feed(seqs, is_full=len(seqs) == PAGE)
        assert not new & fetched
        fetched |= new
    assert fetched == missing & existing
    assert {seq for each in pager.absent for seq in range(each.first, each.last + 1)} == missing - existing
    assert requests <= 12 * (EMPTY_ANSWERS_BEFORE_ABSENT + 2) + len(missing)


def test_absent_head_costs_a_few_requests_however_long_it_is() -> None:
    pager, requests = SeqPager("X", [(1, 300_000_000)], PAGE), 0
    while pager.request is not None:
        requests += 1
        pager.feed(np.array([], dtype=np.int64), is_full=False)
    assert requests == EMPTY_ANSWERS_BEFORE_ABSENT
    assert pager.absent == [SeqRange("X", 1, 300_000_000)]


def test_fetched_trade_resets_the_count_of_empty_answers() -> None:
    """Two empty answers, one trade, two empty answers: the rest is requested again, not absent."""
    pager = SeqPager("X", [(1, 6)], PAGE)
    almost = EMPTY_ANSWERS_BEFORE_ABSENT - 1
    for seqs in [[]] * almost + [[3]] + [[]] * almost:
        assert pager.request is not None
        pager.feed(np.array(seqs, dtype=np.int64), is_full=False)
    assert pager.request is not None
    assert pager.feed(np.array([1, 2, 4, 5, 6], dtype=np.int64), is_full=False) == {1, 2, 4, 5, 6}
    assert pager.request is None
    assert not pager.absent


def test_trades_beyond_a_full_page_are_not_counted_as_requested() -> None:
    """A full page of trades between two holes ended before the second one, whose count of empty answers starts at zero."""
    pager = SeqPager("X", [(1, 1), (PAGE, PAGE)], PAGE)
    pager.feed(np.array([*range(2, PAGE), 2, 3], dtype=np.int64), is_full=True)
    requests = 0
    while pager.request is not None:
        requests += pager.request.last == PAGE
        pager.feed(np.array([], dtype=np.int64), is_full=False)
    assert requests == EMPTY_ANSWERS_BEFORE_ABSENT
    assert sorted(pager.absent) == [SeqRange("X", 1, 1), SeqRange("X", PAGE, PAGE)]


def test_holes_near_each_other_are_one_request() -> None:
    assert group_holes([(1, 1), (5, 6), (10, 10), (11, 11)], PAGE) == [[(1, 1), (5, 6), (10, 10)], [(11, 11)]]


def test_full_page_of_other_trades_is_an_error() -> None:
    """It does not make the range absent."""
    pager = SeqPager("X", [(100, 120)], PAGE)
    with pytest.raises(OutsideRangeError, match="100–120 of X"):
        pager.feed(np.arange(1, 11), is_full=True)
