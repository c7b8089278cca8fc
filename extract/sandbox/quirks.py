"""What Deribit does that breaks naive extractors, as pure functions: the same request gets the same answer.

Seen on the real API: a page of 10,000 trades with 1,885 local inversions; seq ranges as wide as `count` that
lack rows of the range and hold rows from outside; `has_more` true where nothing more was in the range.
"""

from __future__ import annotations

from zlib import crc32

from extract.sandbox.trade_index import TradeIndex

LEAST_LEAK = 8  # narrower seq ranges are whole, so that asking again in pieces can end
LARGE_LEAK = 10_000


def disorder(page: list[bytes]) -> None:
    """Swap neighbours in place, about one in five, and always the first and the last two."""
    last = len(page) - 1
    for first, step in ((2, 7), (5, 19)):
        left, right = slice(first, last - 2, step), slice(first + 1, last - 1, step)
        if len(page[left]) == len(page[right]):
            page[left], page[right] = page[right], page[left]
    if last >= 3:
        page[0], page[1] = page[1], page[0]
        page[last], page[last - 1] = page[last - 1], page[last]


def leak(shelf: TradeIndex, positions: list[int], low: int, high: int) -> list[int]:
    """A full-size range's rows: as many as asked for, some of them from outside, as many inside not there.

    From 10,000 rows on three come from above (30,001–40,000 came as 30,003–40,003), else one from below.
    """
    rows = 3 if len(positions) >= LARGE_LEAK else 1
    above = list(range(high, min(high + rows, len(shelf))))
    below = list(range(max(low - rows, 0), low))
    outside = (above or below) if rows == 3 else (below or above)
    if not outside:
        return positions
    middle = len(positions) // 2
    lost = [positions[0], positions[1], positions[middle]] if rows == 3 else [positions[middle]]
    inside = [position for position in positions if position not in lost[: len(outside)]]
    return sorted(inside + outside)


def has_more(truth: bool, page: list[bytes], asked: str) -> bool:
    """Wrong for every third request or so; an empty page never says that there is more."""
    if not page:
        return False
    return truth ^ (crc32(asked.encode()) % 3 == 0)
