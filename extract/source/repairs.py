"""The dlt source of a repair: missing trades that were fetched by number, in the tables of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import dlt
from dlt.extract import DltResource

from extract.deribit.arrow import with_stream_columns
from extract.deribit.streams import Stream
from extract.source.source import absent_rows, rejected_rows, report_resource, require_same_exchange
from extract.source.tables import ABSENT_TRADES, REJECTED_TRADES, TRADES
from extract.sweep.repair import RepairResult
from extract.sweep.window import Absent, WindowReport


@dlt.source(name="deribit", max_table_nesting=0)
def repaired_trades(
    exchange: str, results: Iterable[tuple[Stream, RepairResult]], report: WindowReport
) -> tuple[DltResource, ...]:
    """Trades, absent ranges and rejected records of `results`; fills `report`. A run's state does not change.

    Raises UsageError where the database holds trades of another exchange than `exchange`.
    """
    finished: WindowReport | None = None

    @dlt.resource(name=TRADES.name, write_disposition="append")
    def trades() -> Iterator[Any]:
        nonlocal finished
        require_same_exchange(dlt.current.source_state(), exchange)
        for stream, result in results:
            report.trades += result.table.num_rows
            report.absent += [Absent(stream, missing) for missing in result.absent]
            report.rejected += [(stream, rejected) for rejected in result.rejected]
            if result.table.num_rows:
                yield with_stream_columns(result.table, stream.currency, stream.kind)
        finished = report

    return (
        trades(),
        report_resource(REJECTED_TRADES, lambda: finished, rejected_rows),
        report_resource(ABSENT_TRADES, lambda: finished, absent_rows),
    )
