"""Trades with a number that another trade has: an instrument whose numbering begins again, or a reused number.

Of the trades with the same number, the one that is loaded, or the first, remains, because it may have been used already. All
others are rejected with their text, so that they overwrite nothing and are not lost. A trade that the exchange restates
keeps its trade id, and is no contradiction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from extract.deribit.arrow import reject_rows, times_ms, trade_keys
from extract.deribit.schema import MAX_SEQ, PAGE_SCHEMA, RejectedTrade
from extract.deribit.streams import TradeKey
from extract.sweep.ledger import SeqRuns
from extract.sweep.time_pager import id_parts

REASON = "another trade has this trade_seq"


def is_contradictory(
    runs: SeqRuns, last_before: int, first_after: int | None, is_recent: Callable[[int], bool]
) -> bool:
    """Whether trades of an instrument have numbers twice, or numbers of earlier or later time.

    `is_recent`: whether the trade with a number may be read again.
    """
    if not all(map(is_recent, runs.within(0, last_before))):
        return True
    if first_after is not None and not all(map(is_recent, runs.within(first_after, MAX_SEQ))):
        return True
    return runs.has_duplicates


@dataclass
class HeldTrades:
    """Trades of instruments with contradictory numbers, in PAGE_SCHEMA, until all of a window have arrived."""

    names: frozenset[str] = frozenset()
    tables: list[pa.Table] = field(default_factory=list)

    def take(self, table: pa.Table) -> pa.Table:
        """Keep the trades of these instruments; returns the others."""
        if not self.names or not table.num_rows:
            return table
        names = table.column("instrument_name").combine_chunks().dictionary_encode()
        is_held_name = np.array([name in self.names for name in names.dictionary.to_pylist()], dtype=np.bool_)
        is_held = is_held_name[names.indices.to_numpy()]
        self.tables.append(table.filter(pa.array(is_held)))
        return table.filter(pa.array(~is_held))

    def times_ms(self) -> dict[TradeKey, set[int]]:
        """Times of the trades with each key."""
        times: dict[TradeKey, set[int]] = {}
        for table in self.tables:
            for key, at_ms in zip(trade_keys(table), times_ms(table).tolist(), strict=True):
                times.setdefault(key, set()).add(at_ms)
        return times

    def resolve(self, loaded_ids: Mapping[TradeKey, str]) -> tuple[pa.Table, list[RejectedTrade]]:
        """(the trades that remain, the rejected ones). `loaded_ids`: ids of the loaded trades with these keys."""
        if not self.tables:
            return PAGE_SCHEMA.empty_table(), []
        table = pa.concat_tables(self.tables)
        keys, ids = trade_keys(table), table.column("trade_id").to_pylist()
        remaining = dict(loaded_ids)
        for _, _, row in sorted(
            (at, id_parts(ids[row]) or ("", 0), row) for row, at in enumerate(times_ms(table).tolist())
        ):
            remaining.setdefault(keys[row], ids[row])
        is_rejected = np.array(
            [remaining[key] != each for key, each in zip(keys, ids, strict=True)], dtype=np.bool_
        )
        return reject_rows(table, is_rejected, REASON)
