"""The pager of a slice of time: it covers all of it, and ends whatever it is told."""

from __future__ import annotations

import pytest

from extract.sweep.time_pager import (
    ID_LAG_MS,
    ById,
    ByTime,
    CursorStuckError,
    OutsideRangeError,
    PageFacts,
    SlicePager,
    UnreadablePageError,
    last_ids,
)


def page(rows: int, last_ms: int | None, *, more: bool = False, ids: tuple[str, ...] = ()) -> PageFacts:
    return PageFacts(rows, more, 10, last_ms=last_ms, trade_ids=ids)


def test_a_short_page_ends_the_slice() -> None:
    """Fewer rows than asked for and no promise of more: done, up to the slice's end."""
    pager = SlicePager(0, 1_000)
    assert pager.request == ByTime(0, 1_000)
    pager.feed(page(9, 500))
    assert pager.request is None
    assert pager.done_ms == 1_000


def test_a_full_page_goes_on_within_the_lag_of_ids() -> None:
    """The next page begins early enough to hold what a later id has of earlier time; has_more changes nothing."""
    for more in (True, False):
        pager = SlicePager(0, 1_000)
        pager.feed(page(10, 500, more=more))
        assert pager.request == ByTime(500 - ID_LAG_MS, 1_000)
        assert pager.done_ms == 500 - ID_LAG_MS - 1


def test_a_short_page_that_promises_more_is_asked_again_once() -> None:
    """has_more on a short page contradicts itself: asked from its end, and done when that brings nothing later."""
    pager = SlicePager(0, 1_000)
    pager.feed(page(4, 500, more=True))
    assert pager.request == ByTime(450, 1_000)
    pager.feed(page(2, 500, more=True))
    assert pager.request is None


def test_an_empty_page_that_promises_more_is_asked_again_once() -> None:
    pager = SlicePager(0, 1_000)
    pager.feed(page(0, None, more=True))
    assert pager.request == ByTime(0, 1_000)
    pager.feed(page(0, None, more=True))
    assert pager.request is None


def test_a_crowded_moment_is_paged_by_id() -> None:
    """More trades in a moment than a page holds: by id until a later time is seen, then by time again."""
    pager = SlicePager(0, 1_000)
    pager.feed(page(10, 30, ids=("ETH-9", "ETH-10")))
    assert pager.request == ById("ETH-10")
    pager.feed(page(10, 60, ids=("ETH-10", "ETH-19")))
    assert pager.request == ById("ETH-19")
    pager.feed(page(10, 30 + ID_LAG_MS + 1, ids=("ETH-19", "ETH-28")))
    assert pager.request == ByTime(31, 1_000)
    assert pager.done_ms == 30


def test_each_prefix_of_ids_is_followed() -> None:
    """Spot has ids under a prefix for each pair: none of them is taken for the last of all."""
    pager = SlicePager(0, 1_000)
    pager.feed(page(10, 30, ids=("A-9", "B-500")))
    asked = set()
    while isinstance(pager.request, ById):
        asked.add(pager.request.start_id)
        pager.feed(page(1, 30, ids=(pager.request.start_id,)))
    assert asked == {"A-9", "B-500"}
    assert pager.request == ByTime(31, 1_000)


def test_the_same_page_by_id_for_ever_is_an_error() -> None:
    """A full page without a new id names the trade that could not be passed."""
    pager = SlicePager(0, 1_000)
    pager.feed(page(10, 30, ids=("7",)))
    with pytest.raises(CursorStuckError, match="Trade 7 "):
        pager.feed(page(10, 30, ids=("7",)))


def test_rows_from_outside_are_asked_for_in_smaller_pieces_and_end_in_an_error() -> None:
    """Leaks stand for missing rows: halves, down to a millisecond; a host that leaks then is named."""
    pager, asked = SlicePager(0, 1_000), []

    def go_on() -> None:
        while pager.request is not None:
            asked.append(pager.request)
            pager.feed(PageFacts(10, True, 10, last_ms=5_000, outside=True))

    with pytest.raises(OutsideRangeError, match="trades of another time"):
        go_on()
    assert len(asked) <= 12


def test_both_halves_of_a_leaky_range_are_covered() -> None:
    pager = SlicePager(0, 999)
    pager.feed(PageFacts(10, True, 10, last_ms=5_000, outside=True))
    assert pager.request == ByTime(0, 499)
    pager.feed(page(3, 400))
    assert pager.request == ByTime(500, 999)
    pager.feed(page(3, 800))
    assert pager.request is None


def test_a_full_page_without_any_time_is_an_error() -> None:
    """A page of nothing but untypable records does not pass for the end."""
    with pytest.raises(UnreadablePageError):
        SlicePager(0, 1_000).feed(page(10, None))


def test_ids_that_are_no_numbers_stop_only_a_crowded_moment() -> None:
    """Elsewhere nobody looks at them."""
    pager = SlicePager(0, 1_000)
    pager.feed(page(10, 500, ids=("odd",)))
    assert pager.request == ByTime(450, 1_000)
    with pytest.raises(UnreadablePageError, match="'odd'"):
        pager.feed(page(10, 500, ids=("odd",)))


def test_last_ids_compare_as_numbers() -> None:
    assert last_ids(["ETH-9", "ETH-10", "7"]) == {"ETH-": 10, "": 7}
