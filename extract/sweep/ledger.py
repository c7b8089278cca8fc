"""Proof of completeness: which `trade_seq` of each instrument are missing between its first and last trade."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from extract.deribit.schema import MAX_SEQ

Seqs = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]


@dataclass(frozen=True, order=True)
class SeqRange:
    """Sequence numbers of one instrument from `first` to `last`, both included."""

    instrument_name: str
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True)
class SeqRuns:
    """Runs of consecutive numbers, ascending by `firsts`; a number that was added twice is in two runs."""

    firsts: Seqs
    lasts: Seqs

    @property
    def has_duplicates(self) -> bool:
        """Whether a number is in two runs."""
        return bool(np.any(self.firsts[1:] <= np.maximum.accumulate(self.lasts)[:-1]))

    def within(self, first: int, last: int) -> Iterator[int]:
        """The numbers from `first` to `last`."""
        is_inside = (self.lasts >= first) & (self.firsts <= last)
        firsts = np.maximum(self.firsts[is_inside], first).tolist()
        lasts = np.minimum(self.lasts[is_inside], last).tolist()
        for run in zip(firsts, lasts, strict=True):
            yield from range(run[0], run[1] + 1)

    def missing(self, first: int, last: int) -> list[tuple[int, int]]:
        """Ranges within first..last that are in no run, ascending."""
        if last < first:
            return []
        is_inside = (self.lasts >= first) & (self.firsts <= last)
        starts = np.concatenate((self.firsts[is_inside], [last + 1]))
        reached = np.concatenate(([first - 1], np.maximum.accumulate(self.lasts[is_inside])))
        holes = np.flatnonzero(starts - reached > 1)
        return [(int(reached[i]) + 1, int(starts[i]) - 1) for i in holes]


def missing_in(seqs: Seqs, first: int, last: int) -> list[tuple[int, int]]:
    """Ranges within first..last that are not in `seqs`, ascending."""
    ordered = np.sort(seqs, kind="stable")  # nearly sorted already
    return SeqRuns(ordered, ordered).missing(first, last)


class SeqLedger:
    """Collects the sequence numbers of fetched trades, as runs of 16 bytes each, and computes which are missing."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self._parts: list[tuple[Codes, Seqs, Codes]] = []
        """Code of the instrument, first number and further numbers of each run."""
        self._runs: dict[str, SeqRuns] | None = None

    def add(self, table: pa.Table) -> None:
        """Add the trades of a table with `instrument_name` and `trade_seq`."""
        if not table.num_rows:
            return
        names = table.column("instrument_name").combine_chunks().dictionary_encode()
        codes = [self._codes.setdefault(name, len(self._codes)) for name in names.dictionary.to_pylist()]
        code_of_row = np.asarray(codes, dtype=np.int32)[names.indices.to_numpy()]
        self._add(code_of_row, table.column("trade_seq").to_numpy())

    def add_one(self, instrument_name: str, trade_seq: int) -> None:
        """Add a trade that exists although its record was rejected."""
        code = self._codes.setdefault(instrument_name, len(self._codes))
        self._add(np.array([code], dtype=np.int32), np.array([trade_seq], dtype=np.int64))

    def _add(self, codes: Codes, seqs: Seqs) -> None:
        order = np.lexsort((seqs, codes))
        codes, seqs = codes[order], seqs[order]
        is_first = np.concatenate(([True], (np.diff(codes) != 0) | (np.diff(seqs) != 1)))
        starts = np.flatnonzero(is_first)
        further = np.diff(starts, append=len(seqs)) - 1
        self._parts.append((codes[starts], seqs[starts], further.astype(np.int32)))
        self._runs = None

    def by_instrument(self) -> Mapping[str, SeqRuns]:
        """All added sequence numbers of each instrument."""
        if self._runs is None:
            self._runs = dict(self._grouped()) if self._parts else {}
        return self._runs

    def _grouped(self) -> Iterator[tuple[str, SeqRuns]]:
        codes, firsts, further = (np.concatenate(columns) for columns in zip(*self._parts, strict=True))
        order = np.lexsort((firsts, codes))
        codes, firsts, further = codes[order], firsts[order], further[order]
        names = list(self._codes)
        starts = np.flatnonzero(np.concatenate(([True], np.diff(codes) != 0)))
        for start, end in zip(starts, [*starts[1:], len(codes)], strict=True):
            yield names[codes[start]], SeqRuns(firsts[start:end], firsts[start:end] + further[start:end])

    def missing(
        self,
        last_before: Mapping[str, int],
        first_after: Mapping[str, int],
        from_the_beginning: bool,
        expected: Mapping[str, tuple[int, int]] = MappingProxyType({}),
    ) -> list[SeqRange]:
        """Missing ranges between the trades loaded before, those added, and those loaded after.

        The range of an instrument starts after `last_before`, else at 1 if `from_the_beginning` of the exchange, else
        at its first added trade, because trades before the requested time are not a gap. It ends before `first_after`,
        else at its last added trade. `expected`: lowest and highest number of trades that exist and were not added.
        """
        missing: list[SeqRange] = []
        nothing = SeqRuns(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
        added = self.by_instrument()
        for name in dict.fromkeys([*added, *first_after, *expected]):
            runs = added.get(name, nothing)
            lowest, highest = expected.get(name, (MAX_SEQ, 0))
            first = last_before.get(name, 0) + 1
            if name not in last_before and not from_the_beginning:
                if not len(runs.firsts) and not highest:
                    continue
                first = int(runs.firsts.min(initial=lowest))
            last = max(int(runs.lasts.max(initial=0)), first_after.get(name, 0) - 1, highest)
            missing += [SeqRange(name, *hole) for hole in runs.missing(first, last)]
        return missing

    def last_seqs(self) -> dict[str, int]:
        """Greatest added sequence number of each instrument."""
        return {name: int(runs.lasts.max()) for name, runs in self.by_instrument().items()}

    def first_seqs(self) -> dict[str, int]:
        """Smallest added sequence number of each instrument."""
        return {name: int(runs.firsts[0]) for name, runs in self.by_instrument().items()}
