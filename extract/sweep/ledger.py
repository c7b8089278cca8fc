"""Proof of completeness: which `trade_seq` of each instrument are missing between its first and last trade."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Seqs = npt.NDArray[np.int64]


@dataclass(frozen=True, order=True)
class SeqRange:
    """Sequence numbers of one instrument from `first` to `last`, both included."""

    instrument_name: str
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1


def missing_in(seqs: Seqs, first: int, last: int) -> list[tuple[int, int]]:
    """Ranges within first..last that are not in `seqs`, ascending."""
    if last < first:
        return []
    inside = np.sort(seqs[(seqs >= first) & (seqs <= last)], kind="stable")  # nearly sorted already
    edges = np.concatenate(([first - 1], inside, [last + 1]))
    before = np.flatnonzero(np.diff(edges) > 1)
    return [(int(edges[i]) + 1, int(edges[i + 1]) - 1) for i in before]


class SeqLedger:
    """Collects the sequence numbers of fetched trades, 12 bytes each, and computes which are missing."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self._parts: list[tuple[Seqs, Seqs]] = []
        self._seqs: dict[str, Seqs] | None = None

    def add(self, table: pa.Table) -> None:
        """Add the trades of a table with `instrument_name` and `trade_seq`."""
        if not table.num_rows:
            return
        names = table.column("instrument_name").combine_chunks().dictionary_encode()
        codes = [self._codes.setdefault(name, len(self._codes)) for name in names.dictionary.to_pylist()]
        code_of_row = np.asarray(codes, dtype=np.int32)[names.indices.to_numpy()]
        # Copied, because a view of one column would keep the whole table in memory.
        self._parts.append((code_of_row, table.column("trade_seq").to_numpy().copy()))
        self._seqs = None

    def by_instrument(self) -> dict[str, Seqs]:
        """All added sequence numbers of each instrument, unsorted."""
        if self._seqs is None:
            self._seqs = dict(self._grouped()) if self._parts else {}
        return self._seqs

    def _grouped(self) -> Iterable[tuple[str, Seqs]]:
        # The narrowest integer type, because numpy sorts 8 and 16 bits in one pass.
        narrow = np.min_scalar_type(len(self._codes))
        codes = np.concatenate([part[0] for part in self._parts]).astype(narrow)
        seqs = np.concatenate([part[1] for part in self._parts])
        order = np.argsort(codes, kind="stable")
        codes, seqs = codes[order], seqs[order]
        names = list(self._codes)
        starts = np.flatnonzero(np.concatenate(([True], codes[1:] != codes[:-1])))
        for start, chunk in zip(starts, np.split(seqs, starts[1:]), strict=True):
            yield names[codes[start]], chunk

    def add_one(self, instrument_name: str, trade_seq: int) -> None:
        """Add a trade that exists although its record was rejected."""
        code = self._codes.setdefault(instrument_name, len(self._codes))
        self._parts.append((np.array([code], dtype=np.int32), np.array([trade_seq], dtype=np.int64)))
        self._seqs = None

    def missing(
        self, last_before: Mapping[str, int], first_after: Mapping[str, int], from_the_beginning: bool
    ) -> list[SeqRange]:
        """Missing ranges between the trades loaded before, those added, and those loaded after.

        The range of an instrument starts after `last_before`, else at 1 if `from_the_beginning` of the exchange, else
        at its first added trade, because trades before the requested time are not a gap. It ends before `first_after`,
        else at its last added trade.
        """
        missing: list[SeqRange] = []
        nothing = np.empty(0, dtype=np.int64)
        added = self.by_instrument()
        for name in dict.fromkeys([*added, *first_after]):
            seqs = added.get(name, nothing)
            first = last_before.get(name, 0) + 1
            if name not in last_before and not from_the_beginning:
                if not len(seqs):
                    continue
                first = int(seqs.min())
            last = max(int(seqs.max(initial=0)), first_after.get(name, 0) - 1)
            missing += [SeqRange(name, *hole) for hole in missing_in(seqs, first, last)]
        return missing

    def last_seqs(self) -> dict[str, int]:
        """Greatest added sequence number of each instrument."""
        return {name: int(seqs.max()) for name, seqs in self.by_instrument().items()}

    def first_seqs(self) -> dict[str, int]:
        """Smallest added sequence number of each instrument."""
        return {name: int(seqs.min()) for name, seqs in self.by_instrument().items()}
