"""Trades that were absent and arrive later are recorded as ranges."""

from __future__ import annotations

import pyarrow as pa

from extract.deribit.schema import PAGE_SCHEMA, RejectedTrade
from extract.deribit.streams import Stream
from extract.sweep.ledger import SeqRange
from extract.sweep.recovered import RecoveredTrades
from extract.sweep.repair import RepairResult

STREAM = Stream("BTC", "option")


def repaired(name: str, seqs: list[int], rejected: list[int] | None = None) -> RepairResult:
    columns = {"instrument_name": [name] * len(seqs), "trade_seq": seqs}
    arrays = [
        pa.array(columns[field.name], field.type)
        if field.name in columns
        else pa.nulls(len(seqs), field.type)
        for field in PAGE_SCHEMA
    ]
    bad = [RejectedTrade(reason="price", raw="{}", key=(name, seq)) for seq in rejected or ()]
    return RepairResult(pa.Table.from_arrays(arrays, schema=PAGE_SCHEMA), rejected=bad)


def test_only_trades_of_absent_ranges_count() -> None:
    """Fetched in several steps and in any order; records that cannot be read count as sent."""
    recovered = RecoveredTrades([SeqRange("X", 3, 9), SeqRange("X", 20, 20)], [(STREAM, SeqRange("W", 1, 1))])
    recovered.add(STREAM, repaired("X", [5, 1, 4, 3, 9], rejected=[6]))
    recovered.add(STREAM, repaired("X", [20, 21]))
    recovered.add(STREAM, repaired("Y", [3]))
    recovered.add(STREAM, repaired("X", []))
    assert recovered.ranges == [
        (STREAM, SeqRange("W", 1, 1)),
        (STREAM, SeqRange("X", 3, 6)),
        (STREAM, SeqRange("X", 9, 9)),
        (STREAM, SeqRange("X", 20, 20)),
    ]
