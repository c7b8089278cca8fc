"""The pager covers a slice of time completely, and ends whatever the exchange answers."""

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


def test_short_page_ends_the_slice() -> None:
    """Fewer rows than requested, and no has_more: done up to the end of the slice."""
    pager = SlicePager(0, 1_000)
    assert pager.request == ByTime(0, 1_000)
    pager.feed(page(9, 500))
    assert pager.request is None
    assert pager.done_ms == 1_000


def test_page_after_a_full_page_starts_within_the_lag_of_ids() -> None:
    """The next page starts early enough for later ids with earlier times; has_more makes no difference."""
    for more in (True, False):
        pager = SlicePager(0, 1_000)
        pager.feed(page(10, 500, more=more))
        assert pager.request == ByTime(500 - ID_LAG_MS, 1_000)
        assert pager.done_ms == 500 - ID_LAG_MS - 1


def test_short_page_with_has_more_is_requested_again_from_its_end() -> None:
    """The slice is done if a later page has no later trade and no `has_more`."""
    pager = SlicePager(0, 1_000)
    pager.feed(page(4, 500, more=True))
    assert pager.request == ByTime(450, 1_000)
    assert pager.done_ms == 449, "a slice may end here"
    pager.feed(page(2, 500))
    assert pager.request is None


@pytest.mark.parametrize("rows", [(1, 1), (8, 4)])
def test_far_smaller_page_with_has_more_and_no_later_trade_ends_the_slice(rows: tuple[int, int]) -> None:
    """The host has sent a larger page, so that this one has all of its trades; one trade alone cannot be paged past."""
    pager = SlicePager(0, 1_000)
    for each in rows:
        pager.feed(page(each, 500, more=True))
    assert pager.request is None


def test_moment_with_more_trades_than_a_limited_page_is_paged_by_id() -> None:
    """Pages of four trades, whether `has_more` says that there are more or not."""
    for more in (True, False):
        pager = SlicePager(0, 1_000)
        pager.feed(page(4, 500, more=True, ids=("1", "4")))
        pager.feed(page(4, 500, more=True, ids=("1", "4")))
        assert pager.request == ById("4")
        pager.feed(page(4, 510, more=more, ids=("4", "7")))
        assert pager.request == ById("7")
        pager.feed(page(1, 510, ids=("7",)))
        assert pager.request == ByTime(501, 1_000)


def test_empty_page_with_has_more_is_requested_again_once() -> None:
    pager = SlicePager(0, 1_000)
    pager.feed(page(0, None, more=True))
    assert pager.request == ByTime(0, 1_000)
    pager.feed(page(0, None, more=True))
    assert pager.request is None


def test_moment_with_more_trades_than_a_page_is_paged_by_id() -> None:
    """Paging is by id until a later time appears, then by time again."""
    pager = SlicePager(0, 1_000)
    pager.feed(page(10, 30, ids=("ETH-9", "ETH-10")))
    assert pager.request == ById("ETH-10")
    pager.feed(page(10, 60, ids=("ETH-10", "ETH-19")))
    assert pager.request == ById("ETH-19")
    pager.feed(page(10, 30 + ID_LAG_MS + 1, ids=("ETH-19", "ETH-28")))
    assert pager.request == ByTime(31, 1_000)
    assert pager.done_ms == 30


def test_each_prefix_of_ids_is_followed() -> None:
    """Spot trades have an id prefix for each pair, and each prefix has its own last id."""
    pager = SlicePager(0, 1_000)
    pager.feed(page(10, 30, ids=("A-9", "B-500")))
    requests = set()
    while isinstance(pager.request, ById):
        requests.add(pager.request.start_id)
        pager.feed(page(1, 30, ids=(pager.request.start_id,)))
    assert requests == {"A-9", "B-500"}
    assert pager.request == ByTime(31, 1_000)


def test_repeated_page_by_id_is_an_error() -> None:
    """The error names the trade after which no other follows."""
    pager = SlicePager(0, 1_000)
    pager.feed(page(10, 30, ids=("7",)))
    with pytest.raises(CursorStuckError, match="Trade 7 "):
        pager.feed(page(10, 30, ids=("7",)))


def test_range_with_trades_from_outside_is_halved_until_an_error() -> None:
    """Trades from outside the range displace trades within it, so the range is halved, down to a millisecond."""
    pager, requests = SlicePager(0, 1_000), []

    def feed_all() -> None:
        while pager.request is not None:
            requests.append(pager.request)
            pager.feed(PageFacts(10, True, 10, last_ms=5_000, outside=True))

    with pytest.raises(OutsideRangeError, match="trades of another time"):
        feed_all()
    assert len(requests) <= 12


def test_both_halves_of_a_leaky_range_are_covered() -> None:
    pager = SlicePager(0, 999)
    pager.feed(PageFacts(10, True, 10, last_ms=5_000, outside=True))
    assert pager.request == ByTime(0, 499)
    pager.feed(page(3, 400))
    assert pager.request == ByTime(500, 999)
    pager.feed(page(3, 800))
    assert pager.request is None


def test_full_page_without_any_time_is_an_error() -> None:
    """A page of rejected records only is not the end."""
    with pytest.raises(UnreadablePageError):
        SlicePager(0, 1_000).feed(page(10, None))


def test_id_without_a_number_is_an_error_only_in_a_moment_larger_than_a_page() -> None:
    """Elsewhere they are not used."""
    pager = SlicePager(0, 1_000)
    pager.feed(page(10, 500, ids=("odd",)))
    assert pager.request == ByTime(450, 1_000)
    with pytest.raises(UnreadablePageError, match="'odd'"):
        pager.feed(page(10, 500, ids=("odd",)))


def test_last_ids_compare_as_numbers() -> None:
    assert last_ids(["ETH-9", "ETH-10", "7"]) == {"ETH-": 10, "": 7}
