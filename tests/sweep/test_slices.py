"""Slices cover the time exactly once, in parts of a few pages."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.sweep.fetch_slice import ROUND_ROWS
from extract.sweep.slices import MAX_GROWTH, Slice, SlicePlanner, SliceSizer


@given(st.integers(0, 5_000), st.integers(2, 50), st.lists(st.integers(0, 200), max_size=30), st.data())
def test_slices_cover_the_time_once(span_ms: int, page: int, rows: list[int], data: st.DataObject) -> None:
    """At any density, and wherever slices end early, they neither overlap nor leave gaps."""
    planner = SlicePlanner(0, span_ms, page)
    done: list[tuple[int, int]] = []
    while (part := planner.next_slice()) is not None:
        early = data.draw(st.booleans()) if len(rows) else False
        end_ms = data.draw(st.integers(part.start_ms, part.end_ms)) if early else part.end_ms
        done.append((part.start_ms, end_ms))
        planner.observe(part, part.start_ms, end_ms, rows.pop() if rows else 0)
    assert planner.is_drained
    assert planner.done_ms == span_ms
    assert sorted(done)[0][0] == 0
    assert all(
        after[0] == before[1] + 1 for before, after in zip(sorted(done), sorted(done)[1:], strict=False)
    )
    assert max(end for _, end in done) == span_ms


def test_no_slice_is_planned_while_the_probe_is_under_way() -> None:
    planner = SlicePlanner(0, 1_000, 10)
    assert planner.next_slice() == Slice(0, 1_000, is_probe=True)
    assert planner.next_slice() is None
    assert not planner.is_drained


def test_slices_grow_at_low_density_and_shrink_at_high_density() -> None:
    """They grow up to eightfold, and shrink at once; also from a length of one millisecond, at any page size."""
    planner = SlicePlanner(0, 10**9, 2)
    planner.observe(planner.next_slice(), 0, 0, 6)
    lengths = []
    for _ in range(4):
        part = planner.next_slice()
        planner.observe(part, None, part.end_ms, 0)
        lengths.append(part.end_ms - part.start_ms + 1)
    assert lengths == [1, MAX_GROWTH, MAX_GROWTH**2, MAX_GROWTH**3]
    part = planner.next_slice()
    planner.observe(part, part.start_ms, part.end_ms, 4_096)
    crowded = planner.next_slice()
    assert crowded.end_ms - crowded.start_ms < 8


def test_drain_only_plans_remainders_and_no_newer_slice() -> None:
    """A full window ends without a gap in time."""
    planner = SlicePlanner(0, 1_000, 10)
    planner.observe(planner.next_slice(), 0, 9, 10)
    part = planner.next_slice()
    planner.observe(part, part.start_ms, part.start_ms + 1, 100)
    rest = planner.next_slice(drain_only=True)
    assert rest.start_ms == part.start_ms + 2
    planner.observe(rest, rest.start_ms, rest.end_ms, 0)
    while more := planner.next_slice(drain_only=True):
        planner.observe(more, None, more.end_ms, 0)
    assert planner.done_ms == part.end_ms


def test_time_before_the_first_trade_does_not_count_for_density() -> None:
    """The density of a probe counts from its first trade on."""
    planner = SlicePlanner(0, 10**12, 100)
    planner.observe(planner.next_slice(), 10**11, 10**11 + 999, 100)
    part = planner.next_slice()
    assert part.end_ms - part.start_ms + 1 == 2_800


def test_no_probe_with_a_sizer_of_an_earlier_window() -> None:
    planner = SlicePlanner(0, 1_000, 10, SliceSizer(100))
    assert planner.next_slice() == Slice(0, 99)
    assert planner.next_slice() == Slice(100, 199)


def test_slices_are_one_page_in_even_trading_and_several_in_uneven_trading() -> None:
    """The length of a slice follows the change of density between successive slices."""
    sizer = SliceSizer.of(1_000, 100, 100)
    lengths = [sizer.length_ms]
    for rows in (280, 280, 280, 280, 280, 95, 190, 95):
        span_ms = sizer.length_ms
        sizer.learn(span_ms, rows, 100)
        lengths.append(sizer.length_ms)
    assert lengths[:5] == [2_800] * 5
    assert lengths[5:7] == [954, 958]
    assert lengths[7] == 1_412
    assert lengths[8] == 4_162


@pytest.mark.parametrize("page_size", [1_000, 10_000])
def test_evenly_traded_slice_is_not_suspected_to_be_cut(page_size: int) -> None:
    """It has no round number of trades, after which another page would be requested."""
    sizer = SliceSizer.of(1_000_000, page_size, page_size)
    for _ in range(20):
        rows = round(sizer.length_ms * page_size / 1_000_000)
        sizer.learn(sizer.length_ms, rows, page_size)
    for near in (rows - 1, rows, rows + 1):
        assert near < page_size
        assert near % ROUND_ROWS


def test_short_remainder_does_not_change_the_estimate() -> None:
    """A millisecond without trades would distort the length of the next slices."""
    sizer = SliceSizer.of(1_000, 100, 100)
    before = replace(sizer)
    sizer.learn(1, 0, 100)
    assert sizer == before
    sizer.learn(2_800, 0, 100)
    assert sizer != before
