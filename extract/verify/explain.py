"""Reason of a difference between a bar and a candle, from finer bars and from the trades of its time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from extract.clickhouse.client import Database
from extract.clickhouse.statements import render
from extract.deribit.arrow import times_ms
from extract.deribit.chart import STEP_MS, Bar, fetch_bars
from extract.deribit.client import DeribitClient
from extract.verify.classify import (
    Candle,
    Classification,
    Prices,
    Trade,
    TradeContent,
    classify,
    describe,
    explain,
    is_without_some_trades,
)
from extract.verify.sample import STATEMENTS

_BY_TIME = "get_last_trades_by_instrument_and_time"
MAX_MINUTES = 3
"""Differing minutes of a coarser bar that are explained."""
_CERTAINTY = (Classification.MISSING, Classification.UNEXPLAINED, Classification.RESTATED)


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
        kind = candle.kind if candle else ""
        classification, reason = explained(name, at_ms, at_ms + STEP_MS[level], bar, kind)
        return classification, f"{detail}; {reason}"

    def _explain_minute(
        self, name: str, from_ms: int, to_ms: int, bar: Bar | None, kind: str
    ) -> tuple[Classification, str]:
        self.requests += 1
        exchange = self._exchange_trades(name, from_ms, to_ms)
        own = self._own_trades(name, from_ms, to_ms, sorted(exchange))
        classification, reason = explain(own, exchange)
        if classification is Classification.UNEXPLAINED and is_without_some_trades(bar, own.values(), kind):
            return (
                Classification.BLOCK_OR_COMBO,
                "the exchange leaves out a part of the block trades or combo legs",
            )
        return classification, reason

    def _explain_by_minutes(
        self, name: str, from_ms: int, to_ms: int, bar: Bar | None, kind: str
    ) -> tuple[Classification, str]:
        """The worst reason of the minutes that differ."""
        self.requests += 1
        bars = fetch_bars(self.client, name, "1m", from_ms, to_ms)
        candles = read_candles(self.database, name, "1m", from_ms, to_ms)
        reasons: list[tuple[Classification, str]] = []
        left_out = 0
        for at_ms in sorted(bars.keys() | candles.keys()):
            minute = classify(bars.get(at_ms), candles.get(at_ms))
            left_out += minute is Classification.BLOCK_OR_COMBO
            if minute is not Classification.UNEXPLAINED or len(reasons) >= MAX_MINUTES:
                continue
            if self.requests < self.most_requests:
                step_ms = STEP_MS["1m"]
                reasons.append(self._explain_minute(name, at_ms, at_ms + step_ms, bars.get(at_ms), kind))
        for classification in _CERTAINTY:
            for reason in reasons:
                if reason[0] is classification:
                    return reason
        if reasons or left_out:
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


def read_candles(database: Database, name: str, level: str, start_ms: int, end_ms: int) -> dict[int, Candle]:
    """Candles of an instrument that start in [start_ms, end_ms), by start in ms."""
    sql = render(STATEMENTS["candles"], lambda _: level)
    parameters: dict[str, Any] = {"name": name, "from_s": start_ms // 1000, "to_s": end_ms // 1000}
    candles = {}
    for at_s, kind, *values in database.rows(sql, parameters):
        candles[at_s * 1000] = Candle(at_s * 1000, kind, Prices(*values[:7]), Prices(*values[7:]))
    return candles
