"""Fetch and store the last trade_seq of expired instruments, so that missing tails can be detected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

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
from extract.pipeline.recheck import require_single_failure
from extract.source.feed import Row
from extract.source.source import instrument_tails
from extract.sweep.scheduler import Task, run_all
from extract.sweep.time_pager import OutsideRangeError

INSTRUMENTS_PER_PACKAGE = 5_000
"""A killed process loses at most the requests of one load package: some minutes."""


class Instrument(NamedTuple):
    """An expired instrument; `last_loaded` is the greatest trade_seq that is loaded, 0 without any."""

    name: str
    stream: Stream
    last_loaded: int


@dataclass
class TailsReport:
    """`requested` instruments, `unknown` of which the history host does not know.

    `set_aside`: instruments whose answers cannot be used, with the error; they are requested again the next time.
    """

    requested: int = 0
    unknown: int = 0
    set_aside: dict[str, TapeError] = field(default_factory=dict)


class _LastTrade(msgspec.Struct):
    """Values of any type, because an answer of a wrong shape would be requested again for minutes."""

    instrument_name: Any = None
    trade_seq: Any = None


class _LastTrades(msgspec.Struct):
    trades: list[_LastTrade]


def fetch_last_trades(scope: Scope = EVERYTHING, listener: Listener | None = None) -> TailsReport:
    """Fetch the last trade of each instrument that expired in covered time, once, and again a day later.

    An answer is settled once it was given twice, a day or more apart, because a history host that lacks trades for a while
    would otherwise hide them for ever.

    Raises CannotTellError where no time is covered, FinalError where the clocks of the exchange and of this machine
    differ, OutsideError when the exchange answers no request or none that can be used, or the database failed: load
    packages that were loaded before remain.
    """
    listener = listener or Listener()
    report = TailsReport()
    with open_coverage_session() as session:
        instruments = instruments_without_last_trade(session.database, scope)
        if instruments:
            session.require_exchange()
        listener.start(len(instruments), "last trades")
        for first in range(0, len(instruments), INSTRUMENTS_PER_PACKAGE):
            part = instruments[first : first + INSTRUMENTS_PER_PACKAGE]
            rows = _fetch_rows(session, part, report, listener)
            session.pipeline.run(instrument_tails(session.client.exchange, rows))
    if report.set_aside and len(report.set_aside) == len(instruments):
        raise next(iter(report.set_aside.values()))
    return report


def instruments_without_last_trade(database: Database, scope: Scope = EVERYTHING) -> list[Instrument]:
    """Instruments that expired in covered time, were created or traded in it, and whose last trade is to be requested.

    Those are the ones without an answer, and those whose greatest answer was given a day ago and not again since.
    """
    tables = require_covered(database, scope)
    rows = query(database, "instruments_without_tail", tables, scope)
    return [Instrument(name, Stream(currency, kind), last) for name, currency, kind, last in rows]


def _fetch_rows(
    session: CoverageSession, instruments: Sequence[Instrument], report: TailsReport, listener: Listener
) -> Iterator[Row]:
    """One row per instrument that the exchange knows, fetched concurrently."""
    client, pending = session.client, iter(instruments)

    def accept(row: Row | None) -> Row | None:
        report.requested += 1
        report.unknown += row is None
        listener.advance(1)
        return row

    def set_aside(name: str, error: TapeError) -> None:
        require_single_failure(client, error)
        report.requested += 1
        report.set_aside[name] = error

    def next_task() -> Task[Row | None, Row | None] | None:
        each = next(pending, None)
        return (
            Task(partial(_fetch_row, client, each), accept, partial(set_aside, each.name)) if each else None
        )

    in_flight = session.config.requests_in_flight
    return (row for row in run_all(next_task, in_flight=in_flight, cancel=client.cancel) if row)


def _fetch_row(client: DeribitClient, instrument: Instrument) -> Row | None:
    """None for an instrument that the history host does not know, which may have traded nevertheless."""
    params: dict[str, str | int] = {"instrument_name": instrument.name, "count": 1, "sorting": "desc"}
    try:
        last = client.result(client.history, "get_last_trades_by_instrument", params, _LastTrades)
    except ExchangeRefusedError as error:
        if error.param != "instrument_name":
            raise
        return None
    last_seq = _last_seq(instrument, last.trades)
    return {
        "instrument_name": instrument.name,
        "last_seq": last_seq,
        **instrument.stream._asdict(),
        "found_at": datetime.now(UTC),
    }


def _last_seq(instrument: Instrument, trades: Sequence[_LastTrade]) -> int:
    """The last trade_seq by the exchange's answer, 0 if there is no trade. Raises ProofError for an impossible one."""
    seqs = [0]
    for trade in trades:
        if trade.instrument_name != instrument.name:
            raise OutsideRangeError(
                f"The last trade of {instrument.name} was requested, and the exchange sent one of {trade.instrument_name}."
            )
        if type(trade.trade_seq) is not int or not 1 <= trade.trade_seq <= MAX_SEQ:
            raise ProofError(
                f"The exchange sent trade_seq {trade.trade_seq} as the last one of {instrument.name}, and no trade has it."
            )
        seqs.append(trade.trade_seq)
    if max(seqs) < instrument.last_loaded:
        raise ProofError(
            f"The exchange sent trade_seq {max(seqs):,} as the last one of {instrument.name}, of which trade "
            f"{instrument.last_loaded:,} is loaded."
        )
    return max(seqs)
