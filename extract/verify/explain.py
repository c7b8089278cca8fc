"""Reason of a difference between a bar and a candle, from finer bars and from the trades of its time."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass, field
from typing import Any

from extract.clickhouse.client import Database
from extract.clickhouse.statements import render
from extract.deribit.arrow import times_ms
from extract.deribit.chart import STEP_MS, Bar, fetch_bars
from extract.deribit.client import DeribitClient
from extract.verify.classify import (
    FAILURES,
    Candle,
    Classification,
    Prices,
    Trade,
    TradeContent,
    classify,
    contradiction,
    describe,
    explain,
    is_bar_of,
    is_without_some_trades,
)
from extract.verify.sample import STATEMENTS

_BY_TIME = "get_last_trades_by_instrument_and_time"
MAX_MINUTES = 3
"""Differing minutes of a coarser bar that are explained."""
MAX_PAGES = 50
"""Requests for the bars that the answer to a chart lacks."""


@dataclass
class Explainer:
    """Explains differences with at most `most_requests` requests; further ones stay unexplained.

    `is_dropped`: whether retention dropped the trades of a time in ms.
    """

    client: DeribitClient
    database: Database
    most_requests: int
    is_dropped: Callable[[int], bool]
    requests: int = field(default=0, init=False)

    def explain(
        self, name: str, level: str, at_ms: int, bar: Bar | None, candle: Candle | None
    ) -> tuple[Classification, str]:
        """Classification of a bar that `classify` leaves unexplained, and a sentence."""
        detail = describe(bar, candle)
        if self.is_dropped(at_ms):
            return Classification.UNEXPLAINED, f"{detail}; its trades were dropped by retention"
        if self.requests >= self.most_requests:
            return (
                Classification.UNEXPLAINED,
                f"{detail}; not examined, because the limit of requests is reached",
            )
        explained = self._explain_minute if level == "1m" else self._explain_by_minutes
        classification, reason = explained(name, at_ms, at_ms + STEP_MS[level], bar, candle)
        return classification, f"{detail}; {reason}"

    def _explain_minute(
        self, name: str, from_ms: int, to_ms: int, bar: Bar | None, candle: Candle | None
    ) -> tuple[Classification, str]:
        self.requests += 1
        exchange = self._exchange_trades(name, from_ms, to_ms)
        own = self._own_trades(name, from_ms, to_ms, sorted(exchange))
        classification, reason = explain(own, exchange)
        kind = candle.kind if candle else ""
        if classification is Classification.RESTATED:
            restated = [own[seq].with_content(exchange[seq]) for seq in sorted(exchange)]
            if not is_bar_of(bar, restated, kind):
                return Classification.UNEXPLAINED, f"{reason}, but its bar is not that of its trades"
        if classification is Classification.UNEXPLAINED and is_without_some_trades(bar, own.values(), kind):
            return (
                Classification.BLOCK_OR_COMBO,
                "the exchange leaves out a part of the block trades or combo legs",
            )
        return classification, reason

    def _explain_by_minutes(
        self, name: str, from_ms: int, to_ms: int, bar: Bar | None, candle: Candle | None
    ) -> tuple[Classification, str]:
        """The worst reason of the minutes that differ, if they explain the whole difference."""
        candles = read_candles(self.database, name, "1m", from_ms, to_ms)

        def fetch(start_ms: int, end_ms: int) -> dict[int, Bar]:
            self.requests += 1
            return fetch_bars(self.client, name, "1m", start_ms, end_ms)

        bars = fetch_pages(fetch, from_ms, to_ms, STEP_MS["1m"], candles.keys())
        classified = {
            at_ms: classify(bars.get(at_ms), candles.get(at_ms)) for at_ms in bars.keys() | candles.keys()
        }
        differing = sorted(at_ms for at_ms, each in classified.items() if each is Classification.UNEXPLAINED)
        reasons: list[tuple[Classification, str]] = []
        for at_ms in differing[:MAX_MINUTES]:
            if self.requests < self.most_requests:
                minute = bars.get(at_ms), candles.get(at_ms)
                reasons.append(self._explain_minute(name, at_ms, at_ms + STEP_MS["1m"], *minute))
        for classification in FAILURES:
            for reason in reasons:
                if reason[0] is classification:
                    return reason
        if skipped := len(differing) - len(reasons):
            return Classification.UNEXPLAINED, f"{skipped} of its differing minutes were not examined"
        in_order = [bars[at_ms] for at_ms in sorted(bars)], [candles[at_ms] for at_ms in sorted(candles)]
        if problem := contradiction(bar, candle, *in_order):
            return Classification.UNEXPLAINED, problem
        for reason in reasons:
            if reason[0] is Classification.RESTATED:
                return reason
        if reasons or Classification.BLOCK_OR_COMBO in classified.values():
            return Classification.BLOCK_OR_COMBO, "the exchange leaves out block trades or combo legs"
        return Classification.UNEXPLAINED, "its minutes agree"

    def _exchange_trades(self, name: str, from_ms: int, to_ms: int) -> dict[int, TradeContent]:
        """Trades of the exchange by trade_seq, at most a page."""
        page = self.client.trades(
            self.client.history,
            _BY_TIME,
            {
                "instrument_name": name,
                "start_timestamp": from_ms,
                "end_timestamp": to_ms - 1,
                "sorting": "asc",
            },
        )
        columns = (page.table.column(each).to_pylist() for each in ("trade_seq", "price", "amount"))
        rows = zip(times_ms(page.table).tolist(), *columns, strict=True)
        return {seq: (at_ms, price, amount) for at_ms, seq, price, amount in rows if from_ms <= at_ms < to_ms}

    def _own_trades(self, name: str, from_ms: int, to_ms: int, seqs: list[int]) -> dict[int, Trade]:
        parameters = {"name": name, "from_ms": from_ms, "to_ms": to_ms, "seqs": seqs}
        rows = self.database.rows(STATEMENTS["trades"], parameters)
        return {
            seq: Trade((at_ms, price, amount), volume, notional, bool(is_block), bool(is_combo_leg))
            for seq, at_ms, price, amount, volume, notional, is_block, is_combo_leg in rows
        }


def fetch_pages(
    fetch: Callable[[int, int], dict[int, Bar]], start_ms: int, end_ms: int, step_ms: int, times_ms: Set[int]
) -> dict[int, Bar]:
    """Bars that start in [start_ms, end_ms), which `fetch` may return in pages smaller than expected, from either end.

    Requests those of `times_ms` that are lacking, until an answer has none of them.
    """
    bars = fetch(start_ms, end_ms)
    for _ in range(MAX_PAGES):
        lacking = times_ms - bars.keys()
        page = fetch(min(lacking), max(lacking) + step_ms) if lacking else {}
        if not page.keys() & lacking:
            break
        bars |= page
    return bars


def read_candles(database: Database, name: str, level: str, start_ms: int, end_ms: int) -> dict[int, Candle]:
    """Candles of an instrument that start in [start_ms, end_ms), by start in ms."""
    sql = render(STATEMENTS["candles"], lambda _: level)
    parameters: dict[str, Any] = {"name": name, "from_s": start_ms // 1000, "to_s": end_ms // 1000}
    candles = {}
    for at_s, kind, *values in database.rows(sql, parameters):
        candles[at_s * 1000] = Candle(at_s * 1000, kind, Prices(*values[:7]), Prices(*values[7:]))
    return candles
