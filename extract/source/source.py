"""The dlt source `deribit` and its resources, and the sources of repairs, of last trades and of empty tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import dlt
from dlt.destinations.adapters import clickhouse_adapter
from dlt.extract import DltResource

from extract.deribit.arrow import with_stream_columns
from extract.deribit.client import DeribitClient
from extract.deribit.instruments import InstrumentsReport, changed_instruments
from extract.deribit.schema import ARROW_SCHEMA
from extract.deribit.streams import Stream
from extract.errors import UsageError
from extract.source.tables import (
    ABSENT_TRADES,
    COVERAGE,
    INSTRUMENT_TAILS,
    INSTRUMENTS,
    RAW_TABLES,
    REJECTED_TRADES,
    TRADES,
    TableDefinition,
)
from extract.sweep.repair import RepairResult
from extract.sweep.window import Absent, WindowReport
from extract.sweep.windows import WindowReader

INSTRUMENTS_PER_BATCH = 5_000
"""Rows in memory at once; a currency may have 100,000 expired instruments."""

Row = dict[str, Any]


@dlt.source(name="deribit", max_table_nesting=0)
def deribit(
    client: DeribitClient,
    window: WindowReader,
    streams: Sequence[Stream],
    now_ms: int,
    listed: InstrumentsReport,
) -> tuple[DltResource, ...]:
    """The public trades of a window, its rejected and absent trades, its covered spans, and changed instruments.

    Rejected records of instruments are among the rejected trades; `listed` is filled.

    State, by stream: covered spans, and the sequence numbers from which the next window continues. It is committed with
    the load package that holds the trades.
    """

    def report() -> WindowReport | None:
        return window.report

    def complete_report() -> WindowReport | None:
        report = window.report if listed.is_done else None
        return replace(report, rejected=report.rejected + listed.rejected) if report else None

    listed.is_done = False
    return (
        trades(client, window),
        report_resource(REJECTED_TRADES, complete_report, rejected_rows),
        report_resource(ABSENT_TRADES, report, absent_rows),
        report_resource(COVERAGE, report, _coverage_rows),
        instruments(client, streams, now_ms, listed),
    )


def trades(client: DeribitClient, window: WindowReader) -> DltResource:
    """Trades as Arrow tables in ARROW_SCHEMA."""

    @dlt.resource(name=TRADES.name, write_disposition="append")
    def resource() -> Iterator[Any]:
        require_same_exchange(dlt.current.source_state(), client.exchange)
        state = dlt.current.resource_state()
        if not state:
            yield ARROW_SCHEMA.empty_table()  # creates the table even where no trade follows
        yield from window.tables()
        assert window.end is not None, "tables() ends with the window's result"
        state.update(window.end.states)

    return with_keys(TRADES, resource())


def with_keys(table: TableDefinition, resource: DltResource) -> DltResource:
    """`resource` with the sort key, partition key and codecs of `table`."""
    return clickhouse_adapter(
        resource, sort=list(table.sort), partition=table.partition, codecs=dict(table.codecs)
    )


def require_same_exchange(state: Row, exchange: str) -> None:
    """Keep trades of the sandbox, the testnet and the live exchange apart. Raises UsageError."""
    loaded = state.setdefault("exchange", exchange)
    if loaded != exchange:
        raise UsageError(
            f"This database holds trades of {loaded}, and trades of {exchange} must not be mixed with them: drop the "
            "old trades with `tape reset`, or select another database with CLICKHOUSE_LOCAL_PORT and TAPE_DIR."
        )


def report_resource(
    table: TableDefinition,
    report_of: Callable[[], WindowReport | None],
    rows_of: Callable[[WindowReport], list[Row]],
) -> DltResource:
    """Rows of `table` from a window's report, which `report_of` returns once all trades have been extracted."""

    @dlt.resource(name=table.name, write_disposition="append", columns=table.hints)
    def resource() -> Iterator[Any]:
        state = dlt.current.resource_state()
        if not state:
            state["exists"] = True
            yield dlt.mark.materialize_table_schema()
        while (report := report_of()) is None:
            yield None  # lets dlt continue with another resource
        yield rows_of(report)

    return resource()


def rejected_rows(report: WindowReport) -> list[Row]:
    """Rows of `rejected_trades`, each record once."""
    unique = {(stream, rejected.raw): rejected.reason for stream, rejected in report.rejected}
    return [{**stream._asdict(), "reason": reason, "raw": raw} for (stream, raw), reason in unique.items()]


def absent_rows(report: WindowReport) -> list[Row]:
    """Rows of `absent_trades`, one for each range."""
    return [
        {
            "instrument_name": absent.range.instrument_name,
            "first_seq": absent.range.first,
            "last_seq": absent.range.last,
            **absent.stream._asdict(),
            "found_at": datetime.now(UTC),
        }
        for absent in report.absent
    ]


def _coverage_rows(report: WindowReport) -> list[Row]:
    return [
        {
            **stream._asdict(),
            "covered_from": datetime.fromtimestamp(span.start_ms / 1000, UTC),
            "covered_to": datetime.fromtimestamp(span.end_ms / 1000, UTC),
        }
        for stream, span in report.covered
    ]


def instruments(
    client: DeribitClient, streams: Sequence[Stream], now_ms: int, listed: InstrumentsReport
) -> DltResource:
    """One row for each instrument that is new or has changed since the last run."""

    @dlt.resource(name=INSTRUMENTS.name, write_disposition="append", columns=INSTRUMENTS.hints)
    def resource() -> Iterator[Any]:
        yield None  # the trades are requested first, in the background
        known = dlt.current.resource_state().setdefault("known", {})
        rows = changed_instruments(client, streams, known, now_ms, listed)
        while batch := list(islice(rows, INSTRUMENTS_PER_BATCH)):
            yield batch

    return with_keys(INSTRUMENTS, resource())


@dlt.source(name="deribit", max_table_nesting=0)
def repaired_trades(
    exchange: str, results: Iterable[tuple[Stream, RepairResult]], report: WindowReport
) -> tuple[DltResource, ...]:
    """Missing trades that were fetched by number, absent ranges and rejected records of `results`; fills `report`.

    A run's state does not change. Raises UsageError where the database holds trades of another exchange than `exchange`.
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


@dlt.source(name="deribit", max_table_nesting=0)
def instrument_tails(exchange: str, rows: Iterable[Row]) -> DltResource:
    """`rows` of `instrument_tails`. Raises UsageError where the database holds trades of another exchange."""

    @dlt.resource(name=INSTRUMENT_TAILS.name, write_disposition="append", columns=INSTRUMENT_TAILS.hints)
    def resource() -> Iterator[Any]:
        require_same_exchange(dlt.current.source_state(), exchange)
        yield from rows

    return resource()


@dlt.source(name="deribit", max_table_nesting=0)
def empty_tables() -> tuple[DltResource, ...]:
    """Every table that a run creates, without rows and state, for a database into which nothing has been loaded."""
    trades = dlt.resource([ARROW_SCHEMA.empty_table()], name=TRADES.name, write_disposition="append")
    others = (
        dlt.resource(
            [dlt.mark.materialize_table_schema()],
            name=table.name,
            write_disposition="append",
            columns=table.hints,
        )
        for table in RAW_TABLES.values()
        if not table.is_optional and table is not TRADES
    )
    return tuple(with_keys(RAW_TABLES[resource.name], resource) for resource in (trades, *others))
