"""Request absent trades again, an hour, a day and a week after the exchange lacked them first.

The exchange may fill in trades later. What is due is loaded or, if the exchange still lacks it, recorded as absent once
more; either ends this turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from extract.deribit.client import DeribitClient
from extract.deribit.config import DeribitConfig
from extract.deribit.streams import Stream
from extract.errors import RetriableError, TapeError
from extract.pipeline.session import PipelineSession
from extract.source.absent import absent_parameters, query_absent
from extract.source.source import repaired_trades
from extract.sweep.ledger import SeqRange
from extract.sweep.recovered import RecoveredTrades
from extract.sweep.repair import InstrumentRepair, RepairQueue, repairs
from extract.sweep.window import Unrepaired, WindowReport, require_concerns_stream

MOST_PER_RUN = 50
"""Ranges that a run requests again after it has loaded new trades: each takes several requests. The next run continues."""
RETRY_S = 20.0
"""How long each request is retried. The next run tries again."""
MAX_UNANSWERED = 3
"""Instruments without an answer to the last retry, after which nothing further is requested."""


@dataclass
class RecheckReport:
    """Trades that were requested again: how many `due`, `fetched` and still `absent`.

    `set_aside`: instruments whose answers cannot be used, with the error; they stay due. `unrepaired`: their ranges.
    """

    due: int = 0
    fetched: int = 0
    absent: int = 0
    rejected: int = 0
    set_aside: dict[str, TapeError] = field(default_factory=dict)
    unrepaired: list[Unrepaired] = field(default_factory=list)


def recheck_absent(
    session: PipelineSession,
    client: DeribitClient,
    config: DeribitConfig,
    currencies: Iterable[str] = (),
    kinds: Iterable[str] = (),
    *,
    most: int = MOST_PER_RUN,
    now_ms: int | None = None,
) -> RecheckReport:
    """Request the absent trades that are due, at most `most` ranges, and load the result as one package.

    One small query and nothing else if nothing is due. `currencies` and `kinds`: empty for all. Raises OutsideError if
    the exchange answers no request, or the database failed.
    """
    report = RecheckReport()
    parameters = absent_parameters(sorted(set(currencies)), sorted(set(kinds)), now_ms) | {"most": most}
    due = query_absent(session.database, "due_ranges", parameters, session.tables.names)
    if not due:
        return report
    loaded = query_absent(session.database, "loaded_ranges", parameters)
    absent = [each for _, each in due]
    recovered = RecoveredTrades(absent, loaded)
    stream_of = {each.instrument_name: stream for stream, each in due}
    waiting = repairs(client.with_retries(RETRY_S), _without(absent, [each for _, each in loaded]))
    handle = set_aside_instruments(client, report.set_aside)

    def handle_few(stream: Stream, repair: InstrumentRepair, error: TapeError) -> None:
        handle(stream, repair, error)
        unanswered = [each for each in report.set_aside.values() if isinstance(each, RetriableError)]
        if len(unanswered) >= MAX_UNANSWERED:
            for _, each in queue.take_waiting():
                report.set_aside.setdefault(each.instrument_name, error)

    queue = RepairQueue(((stream_of[each.instrument_name], each) for each in waiting), handle_few)
    package = WindowReport()
    results = queue.run(in_flight=config.requests_in_flight, cancel=client.cancel)
    session.run(repaired_trades(client.exchange, results, package, recovered))
    report.unrepaired = [
        Unrepaired(stream, each, str(report.set_aside[each.instrument_name]))
        for stream, each in due
        if each.instrument_name in report.set_aside
    ]
    report.due = sum(map(len, absent))
    report.fetched, report.rejected = package.trades, len(package.rejected)
    report.absent = sum(len(each.range) for each in package.absent)
    return report


def set_aside_instruments(
    client: DeribitClient, set_aside: dict[str, TapeError]
) -> Callable[[Stream, InstrumentRepair, TapeError], None]:
    """A handler for `RepairQueue` that records the error of an instrument, so that all others continue.

    It raises the error if that is not about an answer of the exchange, or if the exchange answers no request at all.
    """

    def handle(_: Stream, repair: InstrumentRepair, error: TapeError) -> None:
        require_single_failure(client, error)
        set_aside.setdefault(repair.instrument_name, error)

    return handle


def require_single_failure(client: DeribitClient, error: TapeError) -> None:
    """Raise `error` unless it is about one answer of an exchange that still answers."""
    if client.is_cancelled:
        raise error
    require_concerns_stream(client, error)


def _without(ranges: Sequence[SeqRange], excluded: Sequence[SeqRange]) -> list[SeqRange]:
    """`ranges` without the numbers of `excluded`, which are ascending."""
    rest = []
    for each in ranges:
        first = each.first
        for part in excluded:
            if (
                part.instrument_name == each.instrument_name
                and first <= part.last
                and part.first <= each.last
            ):
                if first < part.first:
                    rest.append(SeqRange(each.instrument_name, first, part.first - 1))
                first = part.last + 1
        if first <= each.last:
            rest.append(SeqRange(each.instrument_name, first, each.last))
    return rest
