"""The dlt source `deribit` and its resources. Paging, proof and decoding are modules of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import dlt
from dlt.destinations.adapters import clickhouse_adapter
from dlt.extract import DltResource

from extract.deribit.client import DeribitClient
from extract.deribit.instruments import COLUMNS as INSTRUMENT_COLUMNS
from extract.deribit.instruments import changed_instruments, last_trading_day_over
from extract.deribit.state import Stream, StreamState
from extract.deribit.sweep import StreamSweep, WindowReport, sweep_window

TRADES_SORT = ("_dlt_load_id", "instrument_name", "trade_seq")
"""A reader of the newest load packages reads nothing else; within one, a trade's neighbours compress best."""


@dataclass
class Window:
    """What one load package is to hold: streams, time, and a budget of trades. `report` is filled while it runs."""

    streams: Sequence[Stream]
    now_ms: int
    until_ms: int
    since_ms: int | None = None
    in_flight: int = 4
    budget: int = 500_000
    report: WindowReport = field(default_factory=WindowReport)
    on_slice: Callable[[Stream, int, int], None] = lambda stream, rows, end_ms: None


@dlt.source(name="deribit", max_table_nesting=0)
def deribit(client: DeribitClient, window: Window) -> tuple[DltResource, ...]:
    """The public trades of `window` and the instruments that changed.

    State, by stream: what time is covered, and the seqs that the next window goes on from. It is committed with the
    load package that holds the trades.
    """
    return trades(client, window), instruments(client, window)


def trades(client: DeribitClient, window: Window) -> DltResource:
    """Trades as Arrow tables in `record.ARROW_SCHEMA`; beside them `rejected_trades` and `absent_trades`."""

    @dlt.resource(name="trades", write_disposition="append")
    def resource() -> Iterator[Any]:
        state = dlt.current.resource_state()
        sweeps = _plan(client, window, state)
        yield from sweep_window(
            client,
            sweeps,
            in_flight=window.in_flight,
            budget=window.budget,
            report=window.report,
            on_slice=window.on_slice,
        )
        yield from _odd_rows(window.report)
        for sweep in sweeps:
            _forget_expired(sweep.state)
            state[str(sweep.stream)] = sweep.state.to_json()

    return clickhouse_adapter(
        resource(),
        sort=TRADES_SORT,
        partition="toYYYYMM(timestamp)",
        codecs={"timestamp": "Delta, ZSTD", "trade_seq": "Delta, ZSTD"},
    )


def _plan(client: DeribitClient, window: Window, state: dict[str, Any]) -> list[StreamSweep]:
    sweeps: list[StreamSweep] = []
    for stream in window.streams:
        stream_state = StreamState.from_json(state.get(str(stream), {}))
        wanted = stream_state.wanted(window.since_ms, window.until_ms)
        if wanted:
            more = len(wanted) > 1
            sweeps.append(StreamSweep(client, stream, stream_state, wanted[0], window.now_ms, more))
    return sweeps


def _forget_expired(state: StreamState) -> None:
    """Instruments that have expired need no seq to go on from: the state holds what is alive, not all history."""
    if state.covered:
        at = datetime.fromtimestamp(state.covered[-1].end_ms / 1000, UTC)
        state.last_seq = {n: seq for n, seq in state.last_seq.items() if not last_trading_day_over(n, at)}


def _odd_rows(report: WindowReport) -> Iterator[Any]:
    """What is kept beside the trades: records that could not be typed, and ranges the exchange does not have."""
    rejected = {
        (stream, bad.raw): {
            "currency": stream.currency,
            "kind": stream.kind,
            "reason": bad.reason,
            "raw": bad.raw,
        }
        for stream, bad in report.rejected
    }
    if rejected:
        yield dlt.mark.with_table_name(list(rejected.values()), "rejected_trades")
    if report.absent:
        rows = [
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
        yield dlt.mark.with_table_name(rows, "absent_trades")


def instruments(client: DeribitClient, window: Window) -> DltResource:
    """One row for each instrument that is new or changed since the last run."""

    @dlt.resource(name="instruments", write_disposition="append", columns=INSTRUMENT_COLUMNS)
    def resource() -> Iterator[Any]:
        known = dlt.current.resource_state().setdefault("known", {})
        rows = list(changed_instruments(client, window.streams, known))
        if rows:
            yield rows

    return clickhouse_adapter(resource(), sort=("instrument_name", "_dlt_load_id"))
