"""The pager of a regular series covers its spans completely, and ends whatever the exchange answers."""

from __future__ import annotations

import pytest

from extract.deribit.series.grid import CursorStuckError, GridPager, Span, group_ranges, ranges_of, step_of

STEP = 1_000


def times(*steps: int) -> list[int]:
    return [step * STEP for step in steps]


def test_request_has_a_step_of_margin_on_either_side() -> None:
    """A start that excludes its own row loses none, nor does an end that does."""
    assert GridPager([(10, 20)], STEP, 100).request == Span(9 * STEP, 20 * STEP + STEP // 2)


def test_complete_answer_ends_the_window() -> None:
    pager = GridPager([(10, 12), (20, 21)], STEP, 2)
    pager.feed(times(10, 11))
    assert pager.request == Span(11 * STEP, 12 * STEP + STEP // 2)
    pager.feed(times(12))
    pager.feed(times(21, 20, 20))
    assert pager.request is None
    assert pager.missing == []


def test_missing_steps_are_requested_on_their_own_until_two_answers_lack_them() -> None:
    """A limit that is counted from the end loses the beginning, which the next request returns."""
    pager = GridPager([(10, 20)], STEP, 100)
    pager.feed(times(*range(15, 21)))
    assert pager.request == Span(9 * STEP, 14 * STEP + STEP // 2)
    pager.feed(times(10, 12, 13, 14))
    assert pager.request == Span(10 * STEP, 11 * STEP + STEP // 2)
    pager.feed([])
    assert pager.request == Span(10 * STEP, 11 * STEP + STEP // 2)
    pager.feed([])
    assert pager.request is None
    assert pager.missing == [11]


def test_step_that_is_missing_near_the_end_does_not_hide_older_rows() -> None:
    """Of four rows at most, counted from the end, each request returns those before the rows that were returned."""
    pager = GridPager([(10, 30)], STEP, 100)
    requests = 0
    while pager.request:
        first, last = -(-pager.request.start_ms // STEP), pager.request.end_ms // STEP
        pager.feed(times(*[step for step in range(first, last + 1) if step != 29][-4:]))
        requests += 1
    assert pager.missing == [29]
    assert requests < 10


def test_rows_that_were_not_requested_do_not_count() -> None:
    """An exchange that always returns its newest rows makes the window missing, and the pager ends."""
    pager = GridPager([(10, 20)], STEP, 100)
    for _ in range(2):
        pager.feed(times(*range(100, 200)))
    assert pager.request is None
    assert pager.missing == list(range(10, 21))


def test_loaded_steps_are_read_again_but_not_missed() -> None:
    pager = GridPager([(10, 12)], STEP, 100, is_loaded=lambda step: step < 12)
    pager.feed(times(12))
    assert pager.request is None


def test_continuation_is_the_end_of_the_next_request() -> None:
    pager = GridPager([(10, 20)], STEP, 100)
    pager.feed(times(18, 19, 20), continue_ms=18 * STEP)
    assert pager.request == Span(9 * STEP, 18 * STEP)
    pager.feed(times(*range(10, 18)), continue_ms=9 * STEP)
    assert pager.request is None


def test_continuation_that_does_not_move_back_is_an_error() -> None:
    pager = GridPager([(10, 20)], STEP, 100)
    with pytest.raises(CursorStuckError, match="does not page further back"):
        pager.feed(times(20), continue_ms=20 * STEP + STEP // 2)


def test_continuations_without_new_rows_are_an_error() -> None:
    """A continuation that moves a millisecond at a time would otherwise not end."""
    pager = GridPager([(10, 20)], STEP, 100)
    pager.feed(times(20), continue_ms=20 * STEP)
    pager.feed(times(20), continue_ms=20 * STEP - 1)
    pager.feed([], continue_ms=20 * STEP - 2)
    with pytest.raises(CursorStuckError):
        pager.feed([], continue_ms=20 * STEP - 3)


def test_continuation_through_a_hole_of_many_pages_is_followed() -> None:
    pager = GridPager([(10, 100)], STEP, 100)
    pager.feed(times(100), continue_ms=95 * STEP)
    for step in range(90, 15, -5):
        pager.feed([], continue_ms=step * STEP)
    pager.feed(times(*range(10, 21)))
    assert pager.request == Span(20 * STEP, 99 * STEP + STEP // 2)


def test_continuation_that_ends_at_its_own_page_is_replaced_by_a_request_for_the_rest() -> None:
    """The row at an exclusive start counts as older, and is not returned."""
    pager = GridPager([(10, 20)], STEP, 100)
    pager.feed(times(18, 19, 20), continue_ms=18 * STEP)
    pager.feed(times(18), continue_ms=18 * STEP)
    assert pager.request == Span(9 * STEP, 17 * STEP + STEP // 2)


def test_times_that_are_slightly_off_belong_to_the_nearest_step() -> None:
    assert [step_of(at_ms, STEP) for at_ms in (9_977, 10_000, 10_023)] == [10, 10, 10]


def test_ranges_are_joined_where_they_fit_a_window() -> None:
    assert ranges_of([5, 1, 2, 9]) == [(1, 2), (5, 5), (9, 9)]
    assert group_ranges([(9, 9), (1, 2), (5, 5)], 5) == [(1, 5), (9, 9)]
