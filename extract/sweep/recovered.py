"""Trades that were absent, and that the exchange has sent since."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from extract.deribit.streams import Stream
from extract.sweep.ledger import SeqRange, Seqs
from extract.sweep.repair import RepairResult


class RecoveredTrades:
    """Collects the recovered trades of repairs as ranges. `absent`: the ranges that were absent before.

    `loaded`: those of them that turned out to be loaded without a repair.
    """

    def __init__(
        self, absent: Iterable[SeqRange] = (), loaded: Iterable[tuple[Stream, SeqRange]] = ()
    ) -> None:
        self._absent: dict[str, list[SeqRange]] = defaultdict(list)
        for each in absent:
            self._absent[each.instrument_name].append(each)
        self.ranges = list(loaded)

    def add(self, stream: Stream, result: RepairResult) -> None:
        """Add the trades of a repair that were absent, also those whose record cannot be read."""
        for name in {*result.table.column("instrument_name").unique().to_pylist(), *_rejected_names(result)}:
            if ranges := self._absent.get(name):
                seqs = _seqs(result, name)
                for each in ranges:
                    inside = np.unique(seqs[(seqs >= each.first) & (seqs <= each.last)])
                    self.ranges += [(stream, SeqRange(name, *run)) for run in _runs(inside)]


def _rejected_names(result: RepairResult) -> set[str]:
    return {bad.key[0] for bad in result.rejected if bad.key}


def _seqs(result: RepairResult, name: str) -> Seqs:
    """trade_seq of an instrument's trades and rejected records; a repair has one instrument."""
    rejected = [bad.key[1] for bad in result.rejected if bad.key and bad.key[0] == name]
    return np.concatenate((result.table.column("trade_seq").to_numpy(), np.array(rejected, dtype=np.int64)))


def _runs(seqs: Seqs) -> list[tuple[int, int]]:
    """Ranges of consecutive numbers in ascending `seqs`."""
    if not len(seqs):
        return []
    ends = np.flatnonzero(np.diff(seqs) > 1)
    firsts, lasts = np.concatenate(([0], ends + 1)), np.concatenate((ends, [len(seqs) - 1]))
    return [(int(seqs[first]), int(seqs[last])) for first, last in zip(firsts, lasts, strict=True)]
