"""Unreliable behaviour of the real API, as deterministic pure functions of the request.

Observed on the real API: a page of 10,000 trades with 1,885 local inversions; ranges of `count` trade_seq that lack
rows of the range and contain rows from outside; `has_more` true where the range has no more rows.
"""

from __future__ import annotations

from zlib import crc32

from extract.sandbox.trade_index import TradeIndex

MIN_LEAK = 8  # smaller trade_seq ranges are complete, so that splitting a range ends
LARGE_LEAK = 10_000


def disorder(page: list[bytes]) -> None:
    """Swap adjacent trades in place: about one pair in five, and always the first and the last pair."""
    last = len(page) - 1
    for first, step in ((2, 7), (5, 19)):
        left, right = slice(first, last - 2, step), slice(first + 1, last - 1, step)
        if len(page[left]) == len(page[right]):
            page[left], page[right] = page[right], page[left]
    if last >= 3:
        page[0], page[1] = page[1], page[0]
        page[last], page[last - 1] = page[last - 1], page[last]


def leak(index: TradeIndex, positions: list[int], low: int, high: int) -> list[int]:
    """Replace some positions of a full-size trade_seq range by positions outside of it; the number stays the same.

    Of 10,000 rows or more, three are replaced from above (30,001–40,000 came as 30,003–40,003), otherwise one from below.
    """
    rows = 3 if len(positions) >= LARGE_LEAK else 1
    above = list(range(high, min(high + rows, len(index))))
    below = list(range(max(low - rows, 0), low))
    outside = (above or below) if rows == 3 else (below or above)
    if not outside:
        return positions
    middle = len(positions) // 2
    lost = [positions[0], positions[1], positions[middle]] if rows == 3 else [positions[middle]]
    inside = [position for position in positions if position not in lost[: len(outside)]]
    return sorted(inside + outside)


def has_more(truth: bool, page: list[bytes], query: str) -> bool:
    """The `has_more` of a page: wrong for about a third of the requests, always false for an empty page."""
    if not page:
        return False
    return truth ^ (crc32(query.encode()) % 3 == 0)
