"""The dlt source `deribit` and its resources. Paging, proof and decoding are modules of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import dlt
from dlt.destinations.adapters import clickhouse_adapter
from dlt.extract import DltResource

from extract.deribit.client import DeribitClient
from extract.deribit.instruments import COLUMNS as INSTRUMENT_COLUMNS
from extract.deribit.instruments import changed_instruments
from extract.deribit.schema import ARROW_SCHEMA
from extract.deribit.streams import Stream
from extract.errors import UsageError
from extract.sweep.window import WindowReport
from extract.sweep.windows import WindowReader

TRADES_SORT = ("_dlt_load_id", "instrument_name", "trade_seq")
"""A reader of the newest load packages reads nothing else; within one, a trade's neighbours compress best."""

TRADES_TABLE: dict[str, Any] = {
    "sort": TRADES_SORT,
    "partition": "toYYYYMM(timestamp)",
    "codecs": {"timestamp": "Delta, ZSTD", "trade_seq": "Delta, ZSTD"},
}
INSTRUMENTS_TABLE: dict[str, Any] = {"sort": ("instrument_name", "_dlt_load_id")}

REJECTED_COLUMNS: dict[str, Any] = {
    "currency": {"data_type": "text", "nullable": False},
    "kind": {"data_type": "text", "nullable": False},
    "reason": {"data_type": "text", "nullable": False},
    "raw": {"data_type": "text", "nullable": False},
}
"""Records that could not be typed: why, and their JSON text."""

ABSENT_COLUMNS: dict[str, Any] = {
    "instrument_name": {"data_type": "text", "nullable": False},
    "first_seq": {"data_type": "bigint", "nullable": False},
    "last_seq": {"data_type": "bigint", "nullable": False},
    "currency": {"data_type": "text", "nullable": False},
    "kind": {"data_type": "text", "nullable": False},
    "found_at": {"data_type": "timestamp", "precision": 3, "nullable": False},
}
"""Ranges of trade_seq, ends included, that the exchange was asked for by number and does not have."""

COVERAGE_COLUMNS: dict[str, Any] = {
    "currency": {"data_type": "text", "nullable": False},
    "kind": {"data_type": "text", "nullable": False},
    "covered_from": {"data_type": "timestamp", "precision": 3, "nullable": False},
    "covered_to": {"data_type": "timestamp", "precision": 3, "nullable": False},
}
"""Spans of time, ends included, whose trades are loaded: the state's own word, for whoever reads in SQL.

Each load package adds the spans that it changed; a later row with the same beginning is the newer word, and spans
may overlap after one has grown into another.
"""


@dlt.source(name="deribit", max_table_nesting=0)
def deribit(
    client: DeribitClient, package: WindowReader, streams: Sequence[Stream], now_ms: int
) -> tuple[DltResource, ...]:
    """The public trades of a window, what is odd about them, and the instruments that changed.

    State, by stream: what time is covered, and the seqs that the next window goes on from. It is committed with the
    load package that holds the trades.
    """
    return (
        trades(client, package),
        report_resource(lambda: package.report, "rejected_trades", REJECTED_COLUMNS, rejected_rows),
        report_resource(lambda: package.report, "absent_trades", ABSENT_COLUMNS, absent_rows),
        report_resource(lambda: package.report, "coverage", COVERAGE_COLUMNS, _coverage),
        instruments(client, streams, now_ms),
    )


def trades(client: DeribitClient, package: WindowReader) -> DltResource:
    """Trades as Arrow tables in `record.ARROW_SCHEMA`."""

    @dlt.resource(name="trades", write_disposition="append")
    def resource() -> Iterator[Any]:
        require_same_exchange(dlt.current.source_state(), client.exchange)
        state = dlt.current.resource_state()
        if not state:
            yield ARROW_SCHEMA.empty_table()  # so that the table is there, whatever comes
        yield from package.tables()
        assert package.end is not None, "the flow ends with a window's end"
        state.update(package.end.states)

    return clickhouse_adapter(resource(), **TRADES_TABLE)


def require_same_exchange(state: dict[str, Any], exchange: str) -> None:
    """A sandbox's trades, or the testnet's, must never come to lie among real ones."""
    held = state.setdefault("exchange", exchange)
    if held != exchange:
        raise UsageError(
            f"This database holds trades of {held}, and those of {exchange} must not be mixed with them: drop the "
            "old ones with `tape reset`, or name another database by CLICKHOUSE_LOCAL_PORT and TAPE_DIR."
        )


def report_resource(
    report_of: Callable[[], WindowReport | None],
    name: str,
    columns: dict[str, Any],
    rows_of: Callable[[WindowReport], list[dict[str, Any]]],
) -> DltResource:
    """What a window tells beside its trades; there is a report when they have all come."""

    @dlt.resource(name=name, write_disposition="append", columns=columns)
    def resource() -> Iterator[Any]:
        state = dlt.current.resource_state()
        if not state:
            state["exists"] = True
            yield dlt.mark.materialize_table_schema()
        while (report := report_of()) is None:
            yield None  # another resource's turn
        yield rows_of(report)

    return resource()


def rejected_rows(report: WindowReport) -> list[dict[str, Any]]:
    unique = {(stream, bad.raw): bad.reason for stream, bad in report.rejected}
    return [
        {"currency": stream.currency, "kind": stream.kind, "reason": reason, "raw": raw}
        for (stream, raw), reason in unique.items()
    ]


def absent_rows(report: WindowReport) -> list[dict[str, Any]]:
    return [
        {
            "instrument_name": absent.range.instrument_name,
            "first_seq": absent.range.first,
            "last_seq": absent.range.last,
            "currency": absent.stream.currency,
            "kind": absent.stream.kind,
            "found_at": datetime.now(UTC),
        }
        for absent in report.absent
    ]


def _coverage(report: WindowReport) -> list[dict[str, Any]]:
    return [
        {
            "currency": stream.currency,
            "kind": stream.kind,
            "covered_from": datetime.fromtimestamp(span.start_ms / 1000, UTC),
            "covered_to": datetime.fromtimestamp(span.end_ms / 1000, UTC),
        }
        for stream, span in report.covered
    ]


def instruments(client: DeribitClient, streams: Sequence[Stream], now_ms: int) -> DltResource:
    """One row for each instrument that is new or changed since the last run."""

    @dlt.resource(name="instruments", write_disposition="append", columns=INSTRUMENT_COLUMNS)
    def resource() -> Iterator[Any]:
        known = dlt.current.resource_state().setdefault("known", {})
        rows = list(changed_instruments(client, streams, known, now_ms))
        if rows:
            yield rows

    return clickhouse_adapter(resource(), **INSTRUMENTS_TABLE)


@dlt.source(name="deribit", max_table_nesting=0)
def empty_tables() -> tuple[DltResource, ...]:
    """The tables of `deribit` without a row or a state, for a database that nothing has been loaded into yet."""

    def empty(name: str, columns: dict[str, Any]) -> DltResource:
        nothing = [dlt.mark.materialize_table_schema()]
        return dlt.resource(nothing, name=name, write_disposition="append", columns=columns)

    trades = dlt.resource([ARROW_SCHEMA.empty_table()], name="trades", write_disposition="append")
    return (
        clickhouse_adapter(trades, **TRADES_TABLE),
        empty("rejected_trades", REJECTED_COLUMNS),
        empty("absent_trades", ABSENT_COLUMNS),
        empty("coverage", COVERAGE_COLUMNS),
        clickhouse_adapter(empty("instruments", INSTRUMENT_COLUMNS), **INSTRUMENTS_TABLE),
    )
