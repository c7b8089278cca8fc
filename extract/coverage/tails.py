"""Fetch and store the last trade_seq of expired instruments, so that missing tails can be detected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec

from extract.clickhouse.client import Database
from extract.coverage.gaps import EVERYTHING, Scope, query, require_covered
from extract.coverage.session import CoverageSession, open_coverage_session
from extract.deribit.client import DeribitClient
from extract.deribit.jsonrpc import ExchangeRefusedError
from extract.deribit.schema import MAX_SEQ
from extract.deribit.streams import Stream
from extract.errors import ProofError, TapeError
from extract.listener import Listener
from extract.source.source import Row, instrument_tails
from extract.sweep.scheduler import Task, run_all

INSTRUMENTS_PER_PACKAGE = 5_000
"""A killed process loses at most the requests of one load package: some minutes."""

Instrument = tuple[str, Stream]


@dataclass
class TailsReport:
    """`requested` instruments, `unknown` of which the history host does not know.

    `set_aside`: instruments whose answers cannot be used, with the error; they are requested again the next time.
    """

    requested: int = 0
    unknown: int = 0
    set_aside: dict[str, ProofError] = field(default_factory=dict)


class _LastTrade(msgspec.Struct):
    """`trade_seq` may have any type: an answer that cannot be decoded would be requested again for minutes."""

    trade_seq: Any = None


class _LastTrades(msgspec.Struct):
    trades: list[_LastTrade]


def fetch_last_trades(scope: Scope = EVERYTHING, listener: Listener | None = None) -> TailsReport:
    """Fetch the last trade of each instrument that expired in covered time and has none stored yet.

    Raises CannotTellError where no time is covered, OutsideError when the exchange or the database failed: load
    packages that were loaded before remain.
    """
    listener = listener or Listener()
    report = TailsReport()
    with open_coverage_session() as session:
        instruments = instruments_without_last_trade(session.database, scope)
        if instruments:
            session.client.now_ms()  # raises early where the exchange cannot be reached
        listener.start(len(instruments), "last trades")
        for first in range(0, len(instruments), INSTRUMENTS_PER_PACKAGE):
            part = instruments[first : first + INSTRUMENTS_PER_PACKAGE]
            rows = _fetch_rows(session, part, report, listener)
            session.pipeline.run(instrument_tails(session.client.exchange, rows))
    return report


def instruments_without_last_trade(database: Database, scope: Scope = EVERYTHING) -> list[Instrument]:
    """Instruments that expired in covered time, were created or traded in it, and have no last trade stored."""
    tables = require_covered(database, scope)
    rows = query(database, "instruments_without_tail", scope, tables)
    return [(name, Stream(currency, kind)) for name, currency, kind in rows]


def _fetch_rows(
    session: CoverageSession, instruments: Sequence[Instrument], report: TailsReport, listener: Listener
) -> Iterator[Row]:
    """One row per instrument that the exchange knows, fetched concurrently."""
    pending = iter(instruments)

    def accept(row: Row | None) -> Row | None:
        report.requested += 1
        report.unknown += row is None
        listener.advance(1)
        return row

    def set_aside(name: str, error: TapeError) -> None:
        if not isinstance(error, ProofError):
            raise error
        report.requested += 1
        report.set_aside[name] = error

    def next_task() -> Task[Row | None, Row | None] | None:
        each = next(pending, None)
        if each is None:
            return None
        return Task(partial(_fetch_row, session.client, *each), accept, partial(set_aside, each[0]))

    in_flight = session.config.requests_in_flight
    return (row for row in run_all(next_task, in_flight=in_flight, cancel=session.client.cancel) if row)


def _fetch_row(client: DeribitClient, name: str, stream: Stream) -> Row | None:
    """None for an instrument that the history host does not know, which may have traded nevertheless."""
    params: dict[str, str | int] = {"instrument_name": name, "count": 1, "sorting": "desc"}
    try:
        last = client.result(client.history, "get_last_trades_by_instrument", params, _LastTrades)
    except ExchangeRefusedError as error:
        if error.param != "instrument_name":
            raise
        return None
    for trade in last.trades:
        if type(trade.trade_seq) is not int or not 1 <= trade.trade_seq <= MAX_SEQ:
            raise ProofError(
                f"The exchange sent trade_seq {trade.trade_seq} as the last one of {name}, and no trade has it."
            )
    last_seq = max((trade.trade_seq for trade in last.trades), default=0)
    return {"instrument_name": name, "last_seq": last_seq, **stream._asdict(), "found_at": datetime.now(UTC)}
