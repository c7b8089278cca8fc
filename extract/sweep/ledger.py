"""The proof over `trade_seq`: an instrument's trades are whole when no number from the first to the last is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa


@dataclass(frozen=True, order=True)
class SeqRange:
    """Sequence numbers first..last of one instrument, both included."""

    instrument_name: str
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1


def missing_in(seqs: np.ndarray, first: int, last: int) -> list[tuple[int, int]]:
    """Ranges of first..last that `seqs` lacks, ascending."""
    if last < first:
        return []
    inside = np.sort(seqs[(seqs >= first) & (seqs <= last)], kind="stable")  # in order already, but for a few
    edges = np.concatenate(([first - 1], inside, [last + 1]))
    before = np.flatnonzero(np.diff(edges) > 1)
    return [(int(edges[i]) + 1, int(edges[i + 1]) - 1) for i in before]


class SeqLedger:
    """Collects which sequence numbers were seen, 12 bytes a trade, and tells which are missing."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []
        self._seqs: dict[str, np.ndarray] | None = None

    def add(self, table: pa.Table) -> None:
        """Takes note of a table with `instrument_name` and `trade_seq`."""
        if not table.num_rows:
            return
        names = table.column("instrument_name").combine_chunks().dictionary_encode()
        codes = [self._codes.setdefault(name, len(self._codes)) for name in names.dictionary.to_pylist()]
        code_of_row = np.asarray(codes, dtype=np.int32)[names.indices.to_numpy()]
        # A copy: a table that came in one piece would stay in memory for the sake of one column.
        self._parts.append((code_of_row, table.column("trade_seq").to_numpy().copy()))
        self._seqs = None

    def by_instrument(self) -> dict[str, np.ndarray]:
        """Of each instrument its seqs, in any order, of all that was added."""
        if self._seqs is None:
            self._seqs = dict(self._grouped()) if self._parts else {}
        return self._seqs

    def _grouped(self) -> Iterable[tuple[str, np.ndarray]]:
        # Few names take narrow codes, which numpy sorts in one pass.
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
        """Takes note of a record that is there although it could not be typed."""
        code = self._codes.setdefault(instrument_name, len(self._codes))
        self._parts.append((np.array([code], dtype=np.int32), np.array([trade_seq], dtype=np.int64)))
        self._seqs = None

    def missing(
        self, last_before: Mapping[str, int], first_after: Mapping[str, int], from_the_beginning: bool
    ) -> list[SeqRange]:
        """What is missing between the seqs known before, those seen, and those known after.

        An instrument's proof begins behind `last_before`, else at 1 if the trades were taken from the beginning of
        the exchange on, else at the first seq seen: what came before the time asked for is no gap. It ends before
        `first_after`, else at the last seq seen.
        """
        found: list[SeqRange] = []
        nothing = np.empty(0, dtype=np.int64)
        seen = self.by_instrument()
        for name in dict.fromkeys([*seen, *first_after]):
            seqs = seen.get(name, nothing)
            first = last_before.get(name, 0) + 1
            if name not in last_before and not from_the_beginning:
                if not len(seqs):
                    continue
                first = int(seqs.min())
            last = max(int(seqs.max(initial=0)), first_after.get(name, 0) - 1)
            found += [SeqRange(name, *hole) for hole in missing_in(seqs, first, last)]
        return found

    def last_seqs(self) -> dict[str, int]:
        """The greatest seq seen of each instrument."""
        return {name: int(seqs.max()) for name, seqs in self.by_instrument().items()}

    def first_seqs(self) -> dict[str, int]:
        """The least seq seen of each instrument."""
        return {name: int(seqs.min()) for name, seqs in self.by_instrument().items()}
