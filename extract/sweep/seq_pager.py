"""Page through missing trade_seq of one instrument. Pure state machine: no I/O."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from extract.sweep.ledger import SeqRange, Seqs, missing_in
from extract.sweep.time_pager import OutsideRangeError

EMPTY_ANSWERS_BEFORE_ABSENT = 3
"""Successive answers without any trade of a hole after which a host counts as not having its trades."""

Hole = tuple[int, int]


class SeqPager:
    """Requests ranges that cover `holes`, until `request` is None; `absent` then has the trades that never arrived.

    Holes that fit a page together are requested together, although the trades in between are loaded already. Full
    pages may lack trades near their end, so trades missing in an answer are requested again.
    """

    def __init__(self, instrument_name: str, holes: Iterable[Hole], page_size: int) -> None:
        self.instrument_name = instrument_name
        self.absent: list[SeqRange] = []
        self._open = [(group, 0) for group in reversed(group_holes(holes, page_size))]

    @property
    def request(self) -> SeqRange | None:
        """The next range to request: from the first missing trade_seq of a group of holes to the last."""
        if not self._open:
            return None
        holes, _ = self._open[-1]
        return SeqRange(self.instrument_name, holes[0][0], holes[-1][1])

    @property
    def remaining(self) -> list[SeqRange]:
        """Trades of all holes that have not arrived, in ascending order."""
        waiting = [SeqRange(self.instrument_name, *hole) for holes, _ in self._open for hole in holes]
        return sorted([*self.absent, *waiting])

    def feed(self, seqs: Seqs, *, is_full: bool) -> set[int]:
        """Accept the trade_seq of the answer to `request`, in any order; returns those that were missing.

        Raises OutsideRangeError for a full page without any trade of the range.
        """
        request = self.request
        assert request is not None
        inside = np.unique(seqs[(seqs >= request.first) & (seqs <= request.last)])
        if is_full and not len(inside):
            raise OutsideRangeError(
                f"Trades {request.first}–{request.last} of {request.instrument_name} were requested, "
                "and the exchange sent a full page of others."
            )
        holes, empty_answers = self._open.pop()
        reached = int(inside.max()) if is_full else request.last
        left = [rest for hole in holes for rest in missing_in(inside, *hole)]
        fetched = set(inside[_within(inside, holes)].tolist())
        far = [(max(first, reached + 1), last) for first, last in left if last > reached]
        near = [(first, min(last, reached)) for first, last in left if first <= reached]
        if far:
            self._open.append((far, 0))
        if near and (fetched or empty_answers + 1 < EMPTY_ANSWERS_BEFORE_ABSENT):
            self._open.append((near, 0 if fetched else empty_answers + 1))
        elif near:
            self.absent += [SeqRange(self.instrument_name, *hole) for hole in near]
        return fetched


def _within(seqs: Seqs, holes: list[Hole]) -> npt.NDArray[np.bool_]:
    """For each of the ascending `seqs`, whether it is in one of the ascending `holes`."""
    firsts, lasts = np.array(holes, dtype=np.int64).T
    place = np.searchsorted(firsts, seqs, side="right") - 1
    inside: npt.NDArray[np.bool_] = (place >= 0) & (seqs <= lasts[place])
    return inside


def group_holes(holes: Iterable[Hole], page_size: int) -> list[list[Hole]]:
    """Holes in ascending order, grouped if the range from the first to the last fits a page."""
    groups: list[list[Hole]] = []
    for hole in sorted(holes):
        if groups and hole[1] - groups[-1][0][0] < page_size:
            groups[-1].append(hole)
        else:
            groups.append([hole])
    return groups
