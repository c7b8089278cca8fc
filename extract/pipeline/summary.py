"""Summary of a run, and the errors of a run that loaded everything except parts that it names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from extract.deribit.client import RequestStats
from extract.deribit.streams import Stream
from extract.errors import OutsideError, ProofError, TapeError
from extract.pipeline.recheck import RecheckReport
from extract.source.series import SeriesReport
from extract.sweep.window import Unrepaired, WindowReport, add_field_counts


@dataclass
class RunSummary:
    """Result of a run. `trades` counts loaded rows by stream.

    `stopped` is the reason why the run ended early, None where it completed. `set_aside`: what could not be loaded, as
    `BTC option` or `instruments of BTC`, with the reason. `recovered`: fetched trades that were absent before, besides
    `trades`. `unrepaired`: missing trades of streams that were loaded. `contradictory`: rejected trades whose number
    another trade has. `notes`: sentences about other unusual things. `series` counts loaded rows by series,
    `series_missing` those that the exchange did not send, by series and key; `series_refused` are the keys that it does
    not offer, with its answer.
    """

    trades: dict[Stream, int] = field(default_factory=dict)
    windows: int = 0
    repaired: int = 0
    known: int = 0
    restated: int = 0
    rejected: int = 0
    absent: int = 0
    recovered: int = 0
    unrepaired: list[Unrepaired] = field(default_factory=list)
    contradictory: int = 0
    unknown_fields: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    retries: int = 0
    wire_bytes: int = 0
    seconds: float = 0.0
    stopped: str | None = None
    set_aside: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    series: Counter[str] = field(default_factory=Counter)
    series_missing: dict[str, int] = field(default_factory=dict)
    series_refused: dict[str, str] = field(default_factory=dict)
    series_rejected: int = 0
    disagreements: list[str] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        return self.stopped is None

    @property
    def total(self) -> int:
        return sum(self.trades.values())

    def add(self, report: WindowReport) -> None:
        """Add the figures of one window."""
        self.windows += 1
        self.repaired += report.repaired
        self.known += report.known
        self.restated += report.restated
        self.rejected += len(report.rejected)
        self.absent += sum(len(absent.range) for absent in report.absent)
        self.unrepaired += report.unrepaired
        self.contradictory += report.contradictory
        for stream, trades in report.by_stream.items():
            self.trades[stream] = self.trades.get(stream, 0) + trades
        add_field_counts(self.unknown_fields, report.unknown_fields)
        self.set_aside |= {str(stream): str(error) for stream, error in report.set_aside.items()}

    def note_requests(self, stats: RequestStats, before: RequestStats | None = None) -> None:
        """Set the figures of requests to what `stats` have counted since `before`, or in all."""
        before = before or RequestStats()
        self.requests = stats.requests - before.requests
        self.retries = stats.retries - before.retries
        self.wire_bytes = stats.bytes - before.bytes

    def add_recheck(self, report: RecheckReport) -> None:
        """Add the absent trades that were requested again."""
        self.recovered += report.fetched
        self.absent += report.absent
        self.rejected += report.rejected
        self.unrepaired += report.unrepaired

    def add_series(self, report: SeriesReport) -> None:
        """Add the figures of one load package of series."""
        self.series += report.rows
        self.series_missing |= report.missing
        self.series_rejected += report.rejected
        self.disagreements += report.disagreements
        self.series_refused |= report.refused
        self.set_aside |= {name: str(error) for name, error in report.set_aside.items()}


class IncompleteRunError(TapeError):
    """A run has loaded everything except what the exchange's answers made impossible; `summary` names that."""

    def __init__(self, message: str, summary: RunSummary) -> None:
        super().__init__(message)
        self.summary = summary


class StreamsSetAsideError(IncompleteRunError, OutsideError):
    """The exchange's answers about some streams could not be used, and nothing of them counts as covered (exit 4)."""

    exit_code = OutsideError.exit_code


class TradesMissingError(IncompleteRunError, ProofError):
    """Trades of covered time could not be fetched, or contradict others, and everything else is loaded (exit 1)."""

    exit_code = ProofError.exit_code


def require_complete(summary: RunSummary) -> None:
    """Raise StreamsSetAsideError or TradesMissingError if a run could not load everything."""
    if summary.set_aside:
        (name, reason), *others = summary.set_aside.items()
        also = f"{len(others):,} more were set aside as well; a" if others else "A"
        raise StreamsSetAsideError(
            f"{name} was set aside, and nothing of it counts as covered: {reason.rstrip('.')}. "
            f"{also}ll others are loaded; the next run tries again.",
            summary,
        )
    if summary.unrepaired:
        raise TradesMissingError(describe_unrepaired(summary.unrepaired), summary)
    if summary.contradictory:
        raise TradesMissingError(describe_contradictory(summary.contradictory), summary)


def describe_contradictory(count: int) -> str:
    """One sentence about trades with the numbers of others."""
    return (
        f"{count:,} trades have the trade_seq of other trades, as after a restart of an instrument's numbering: they are in "
        "deribit_raw.rejected_trades, and nothing was overwritten; all other trades are loaded."
    )


def describe_unrepaired(unrepaired: Sequence[Unrepaired]) -> str:
    """One sentence about missing trades, and the command that lists them."""
    names = dict.fromkeys(each.range.instrument_name for each in unrepaired)
    others = f" and {len(names) - 1:,} more instruments" if len(names) > 1 else ""
    return (
        f"{sum(len(each.range) for each in unrepaired):,} trades of {next(iter(names))}{others} are missing and could not "
        f"be fetched: {unrepaired[0].reason.rstrip('.')}. `tape gaps` lists them, and `tape repair` tries again; all other "
        "trades are loaded."
    )
