"""Compare a sample of the exchange's charts with the candles of this database, and record the result."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from extract.clickhouse.client import Database, shared_database
from extract.clickhouse.finished import describe_waiting
from extract.clickhouse.settings import MART_DATABASE, RAW_DATABASE, clickhouse_settings
from extract.clickhouse.statements import render
from extract.deribit.chart import Bar, fetch_bars
from extract.deribit.client import DeribitClient
from extract.deribit.config import deribit_config
from extract.errors import CannotTellError, OutsideError, ProofError, RetriableError, TapeError
from extract.listener import Listener
from extract.pipeline.load import loaded_state
from extract.source.source import require_same_exchange
from extract.source.tables import loaded_relation
from extract.times import iso, parse_time_ms
from extract.verify.classify import DIFFERENCES, FAILURES, Candle, Classification, Match, classify, match
from extract.verify.explain import Explainer, fetch_pages, read_candles
from extract.verify.sample import STATEMENTS, Chart, choose_charts, dropped_months, raw_tables

CHECKS = f"{MART_DATABASE}.candle_checks"
_COLUMNS = (
    *("instrument_name", "level", "bucket_at", "last_bucket_at", "bars", "classification", "detail"),
    *("agrees_with", "window_at", "checked_at"),
)
DEFAULT_CHARTS = 100
RETRY_TOTAL_S = 30.0
"""Seconds to retry a request; a chart that fails longer is set aside."""


@dataclass(frozen=True)
class Difference:
    """A bar that differs from the candle, a range of `bars` without trades, or a whole chart.

    Times of its bars in ms since 1970 UTC.
    """

    instrument_name: str
    level: str
    first_ms: int
    last_ms: int
    bars: int
    classification: Classification
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "instrument_name": self.instrument_name,
            "level": self.level,
            "bucket_at": iso(self.first_ms),
            "classification": self.classification.value,
            "detail": self.detail,
        }


@dataclass
class Agreement:
    """Bars with block trades or combo legs: how many agree with each kind of candles."""

    whole: int = 0
    book: int = 0
    neither: int = 0

    @property
    def candles(self) -> str | None:
        """`whole` or `book`, the kind with which the exchange agrees; `mixed` for both; None if no bar agrees."""
        if self.whole and self.book:
            return "mixed"
        return "whole" if self.whole else "book" if self.book else None

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(self.whole + other.whole, self.book + other.book, self.neither + other.neither)


@dataclass
class VerifyReport:
    """Result of a verification. `bars` were compared, of which `equal` do not differ at all.

    `set_aside`: charts whose answers cannot be used, with the error.
    """

    charts: int = 0
    bars: int = 0
    equal: int = 0
    differences: list[Difference] = field(default_factory=list)
    counts: Counter[Classification] = field(default_factory=Counter)
    agreement: Agreement = field(default_factory=Agreement)
    set_aside: dict[str, TapeError] = field(default_factory=dict)
    requests: int = 0
    seconds: float = 0.0

    @property
    def failures(self) -> list[Difference]:
        """Bars with trades that are missing here, and unexplained ones."""
        return [each for each in self.differences if each.classification in FAILURES]

    def to_json(self) -> dict[str, Any]:
        return {
            "charts": self.charts,
            "bars": self.bars,
            "equal": self.equal,
            **{each.value: self.counts[each] for each in DIFFERENCES},
            "agrees_with": self.agreement.candles,
            "bars_with_block_or_combo_trades": {
                "whole": self.agreement.whole,
                "book": self.agreement.book,
                "neither": self.agreement.neither,
            },
            "differences": [
                each.to_json()
                for each in self.differences
                if each.classification is not Classification.NO_TRADES
            ],
            "set_aside": {name: str(error) for name, error in self.set_aside.items()},
            "requests": self.requests,
            "seconds": round(self.seconds, 3),
        }


def verify_candles(
    *,
    since: str | None = None,
    names: Sequence[str] = (),
    most_charts: int = DEFAULT_CHARTS,
    listener: Listener | None = None,
) -> VerifyReport:
    """Compare at most `most_charts` charts of the exchange, and record each in deribit.candle_checks.

    Charts that failed last time come first, then those that were never compared, then those compared or set aside longest
    ago; so a stopped verification continues with the next one. `names`: instruments; empty for all. Differences take at
    most as many further requests. Raises UsageError for a time that cannot be read, or where the database holds trades of
    another exchange, CannotTellError if no time is covered or the
    models are not built or not up to date, OutsideError if the exchange answers no request or the database failed.
    """
    started_s = time.monotonic()
    listener = listener or Listener()
    settings = clickhouse_settings()
    database = shared_database(settings)
    with DeribitClient(deribit_config()) as client:
        client = client.with_retries(RETRY_TOTAL_S)
        require_same_exchange(loaded_state(settings), client.exchange)
        now_ms = client.now_ms()
        require_current_models(database)
        since_ms = parse_time_ms(since, "--since", now_ms) if since else 0
        charts = choose_charts(database, names, since_ms, now_ms, most_charts)
        if not charts:
            raise CannotTellError(
                "There is no complete candle of these instruments and this time to compare."
            )
        listener.start(len(charts), "charts")
        report = _Verification(client, database, most_charts).run(charts, listener)
        report.requests = client.stats.requests
    report.seconds = time.monotonic() - started_s
    return report


def require_current_models(database: Database) -> None:
    """Raise CannotTellError unless the models are built and have consumed every finished load package."""
    tables = set(database.column(f"select name from system.tables where database = '{MART_DATABASE}'"))
    if not {"ohlcv_1m", "candle_checks", "consumed_loads", "retention_drops"} <= tables:
        raise CannotTellError("There are no candles or no deribit.candle_checks yet; run: dbt build")
    raw = raw_tables(database)
    sql = render(STATEMENTS["loads_pending"], lambda name: loaded_relation(name, raw))
    if "_dlt_loads" in raw and (pending := database.value(sql)):
        raise CannotTellError(f"The candles are not up to date: {describe_waiting(pending)}; run: dbt build")


class _Verification:
    """Comparison of several charts with one limit of requests."""

    def __init__(self, client: DeribitClient, database: Database, most_requests: int) -> None:
        self._client = client
        self._database = database
        self._dropped = {
            level: dropped_months(database, f"ohlcv_{level}_versions") for level in ("1m", "1h", "1d")
        }
        trades = dropped_months(database, "trade_versions") | dropped_months(database, "trades", RAW_DATABASE)
        self._months_without_trades = trades
        self._raw_tables = raw_tables(database)
        self._explainer = Explainer(client, database, most_requests, lambda at_ms: month_of(at_ms) in trades)
        self._report = VerifyReport()

    def _has_trades(self, at_ms: int) -> bool:
        """Whether retention has not dropped the trades of a time."""
        return month_of(at_ms) not in self._months_without_trades

    def run(self, charts: Sequence[Chart], listener: Listener) -> VerifyReport:
        """Compare and record chart by chart; one whose answers cannot be used is set aside, so that others come first."""
        for chart in charts:
            try:
                comparison = self._compare(chart)
            except (OutsideError, ProofError) as error:
                if self._client.is_cancelled:
                    raise
                self._database.value("select 1")  # otherwise each chart would fail for the same reason
                if isinstance(error, RetriableError):
                    self._client.require_answer(self._client.live)
                self._report.set_aside[f"{chart.level} of {chart.instrument_name}"] = error
                self._insert(chart, [_whole(chart, 0, Classification.SET_ASIDE, str(error))])
            else:
                self._record(chart, *comparison)
            listener.advance(1)
        return self._report

    def _compare(self, chart: Chart) -> tuple[int, list[Difference], Agreement]:
        """Number of bars, differences, and with which candles the bars agree."""
        candles = read_candles(
            self._database, chart.instrument_name, chart.level, chart.start_ms, chart.end_ms
        )
        fetch = partial(fetch_bars, self._client, chart.instrument_name, chart.level)
        bars = fetch_pages(fetch, chart.start_ms, chart.end_ms, chart.step_ms, candles.keys())
        dropped = self._dropped[chart.level]
        times = [at_ms for at_ms in sorted(bars.keys() | candles.keys()) if month_of(at_ms) not in dropped]
        differences = list(self._differences(chart, times, bars, candles))
        return len(times), differences, _agreement(times, bars, candles)

    def _differences(
        self, chart: Chart, times: Iterable[int], bars: dict[int, Bar], candles: dict[int, Candle]
    ) -> Iterator[Difference]:
        """Differing bars in the order of time; successive bars without trades are one."""
        empty: list[int] = []
        lost = self._lost_trades(chart, candles)
        for at_ms in times:
            bar, candle = bars.get(at_ms), candles.get(at_ms)
            classification = classify(bar, candle)
            if classification is Classification.NO_TRADES:
                empty.append(at_ms)
                continue
            if empty:
                yield _empty_bars(chart, empty)
                empty = []
            detail = lost.get(at_ms, "")
            if detail and classification is not Classification.UNEXPLAINED:
                classification = Classification.MISSING
            if classification is None:
                continue
            if classification is Classification.UNEXPLAINED:
                classification, detail = self._explainer.explain(
                    chart.instrument_name, chart.level, at_ms, bar, candle
                )
            yield Difference(chart.instrument_name, chart.level, at_ms, at_ms, 1, classification, detail)
        if empty:
            yield _empty_bars(chart, empty)

    def _lost_trades(self, chart: Chart, candles: Mapping[int, Candle]) -> dict[int, str]:
        """Minutes whose candle has more trades than are in the tables that it was made from, each with a sentence."""
        if chart.level != "1m" or not self._has_trades(chart.start_ms):
            return {}
        sql = render(STATEMENTS["trades_by_minute"], lambda name: loaded_relation(name, self._raw_tables))
        parameters = {"name": chart.instrument_name, "from_ms": chart.start_ms, "to_ms": chart.end_ms}
        counts = {int(at_s) * 1000: each for at_s, *each in self._database.rows(sql, parameters)}
        lost = {}
        for at_ms, candle in candles.items():
            fewest = min(counts.get(at_ms, (0, 0)))
            if fewest < candle.whole.trades:
                lost[at_ms] = (
                    f"the candle has {candle.whole.trades:,} trades, of which {candle.whole.trades - fewest:,} are not in "
                    f"{MART_DATABASE}.trades or {RAW_DATABASE}.trades any more"
                )
        return lost

    def _record(
        self, chart: Chart, bars: int, differences: Sequence[Difference], agreement: Agreement
    ) -> None:
        """Store a comparison in candle_checks, and add it to the report."""
        whole = _whole(chart, bars, Classification.COMPARED)
        self._insert(chart, [whole, *differences], agreement.candles)
        report = self._report
        report.charts += 1
        report.bars += bars
        report.equal += bars - sum(each.bars for each in differences)
        report.differences += differences
        for each in differences:
            report.counts[each.classification] += each.bars
        report.agreement += agreement

    def _insert(self, chart: Chart, checks: Sequence[Difference], agrees_with: str | None = None) -> None:
        """Store rows of a chart in candle_checks; `agrees_with` is that of the comparison itself."""
        checked_at = datetime.now(UTC)
        rows = [
            (
                each.instrument_name,
                each.level,
                _time(each.first_ms),
                _time(each.last_ms),
                each.bars,
                each.classification.value,
                each.detail,
                agrees_with if each.classification is Classification.COMPARED else None,
                _time(chart.window_ms),
                checked_at,
            )
            for each in checks
        ]
        self._database.insert(CHECKS, rows, _COLUMNS)


def _agreement(times: Iterable[int], bars: dict[int, Bar], candles: dict[int, Candle]) -> Agreement:
    agreement = Agreement()
    for at_ms in times:
        candle = candles.get(at_ms)
        if candle is None or not candle.has_other_trades:
            continue
        is_whole, is_book = (
            match(bars.get(at_ms), prices, candle.kind) is not Match.NONE
            for prices in (candle.whole, candle.book)
        )
        agreement += Agreement(
            int(is_whole and not is_book), int(is_book and not is_whole), int(not (is_whole or is_book))
        )
    return agreement


def _whole(chart: Chart, bars: int, classification: Classification, detail: str = "") -> Difference:
    """The row of a chart itself."""
    last_ms = chart.end_ms - chart.step_ms
    return Difference(
        chart.instrument_name, chart.level, chart.start_ms, last_ms, bars, classification, detail
    )


def _empty_bars(chart: Chart, times_ms: Sequence[int]) -> Difference:
    return Difference(
        chart.instrument_name,
        chart.level,
        times_ms[0],
        times_ms[-1],
        len(times_ms),
        Classification.NO_TRADES,
    )


def month_of(at_ms: int) -> int:
    """The month of a time as YYYYMM, UTC."""
    at = _time(at_ms)
    return at.year * 100 + at.month


def _time(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)
