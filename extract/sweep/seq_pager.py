"""Paging through holes of one instrument's trade_seq, as a state machine that knows no network."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from extract.sweep.ledger import SeqRange, missing_in
from extract.sweep.time_pager import OutsideRangeError

EMPTY_ANSWERS_BEFORE_ABSENT = 3
"""Answers in a row without any trade of a hole until a host counts as not having it."""

Hole = tuple[int, int]


class SeqPager:
    """Yields the ranges that together cover `holes`; `request` is None when done, `absent` what never came.

    Holes near each other are asked for together: what lies between them is known already and costs nothing more
    than its bytes. Full pages leak at their ends, so what an answer lacks is asked for again.
    """

    def __init__(self, instrument_name: str, holes: Iterable[Hole], page_size: int) -> None:
        self.instrument_name = instrument_name
        self.absent: list[SeqRange] = []
        self._open = [(group, 0) for group in reversed(grouped(holes, page_size))]

    @property
    def request(self) -> SeqRange | None:
        """From the first seq of the holes in question to their last."""
        if not self._open:
            return None
        holes, _ = self._open[-1]
        return SeqRange(self.instrument_name, holes[0][0], holes[-1][1])

    def feed(self, seqs: np.ndarray, *, is_full: bool) -> set[int]:
        """Takes the seqs that came in answer to `request`, in any order; those of them that were missing.

        Raises OutsideRangeError for a full page without a single one of the range.
        """
        asked = self.request
        assert asked is not None
        holes, empty_answers = self._open.pop()
        inside = np.unique(seqs[(seqs >= asked.first) & (seqs <= asked.last)])
        if is_full and not len(inside):
            raise OutsideRangeError(
                f"Asked for trades {asked.first}–{asked.last} of {asked.instrument_name}, "
                "the exchange answers with a full page of others."
            )
        reached = int(inside.max()) if is_full else asked.last
        left = [rest for hole in holes for rest in missing_in(inside, *hole)]
        found = set(inside[_within(inside, holes)].tolist())
        far = [(max(first, reached + 1), last) for first, last in left if last > reached]
        near = [(first, min(last, reached)) for first, last in left if first <= reached]
        if far:
            self._open.append((far, 0))
        if near and (found or empty_answers + 1 < EMPTY_ANSWERS_BEFORE_ABSENT):
            self._open.append((near, 0 if found else empty_answers + 1))
        elif near:
            self.absent += [SeqRange(self.instrument_name, *hole) for hole in near]
        return found


def _within(seqs: np.ndarray, holes: list[Hole]) -> np.ndarray:
    """Which of the ascending `seqs` lie in one of the ascending `holes`."""
    firsts, lasts = np.array(holes, dtype=np.int64).T
    place = np.searchsorted(firsts, seqs, side="right") - 1
    return (place >= 0) & (seqs <= lasts[place])


def grouped(holes: Iterable[Hole], page_size: int) -> list[list[Hole]]:
    """Holes in ascending order, those together whose trades from first to last fit a page."""
    groups: list[list[Hole]] = []
    for hole in sorted(holes):
        if groups and hole[1] - groups[-1][0][0] < page_size:
            groups[-1].append(hole)
        else:
            groups.append([hole])
    return groups
