"""Compare a bar of the exchange with the candle of this database, and classify a difference. No I/O."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import IntEnum, StrEnum
from typing import Any

from extract.deribit.chart import Bar

ROUNDED_TO = 1e-8
"""The exchange rounds volume and cost to eight places, of each trade or of the sum."""
RELATIVE_ERROR = 1e-12
"""Of a sum of floats."""
KINDS_WITH_COST = frozenset({"future", "spot"})
"""Kinds whose `cost` is known to be in the currency of `notional`."""
MAX_NAMED = 5


class Classification(StrEnum):
    """Reason why a bar of the exchange differs from the candle.

    `compared` is the row of a comparison itself, `set_aside` that of a chart which could not be compared.
    """

    COMPARED = "compared"
    SET_ASIDE = "set_aside"
    NO_TRADES = "no_trades"
    BLOCK_OR_COMBO = "block_or_combo"
    ROUNDING = "rounding"
    RESTATED = "restated"
    MISSING = "missing"
    UNEXPLAINED = "unexplained"


DIFFERENCES = tuple(
    each for each in Classification if each not in (Classification.COMPARED, Classification.SET_ASIDE)
)
FAILURES = (Classification.MISSING, Classification.UNEXPLAINED)
"""Differences that the exchange's peculiarities do not explain."""


class Match(IntEnum):
    """How a bar agrees with a candle."""

    NONE = 0
    ROUNDED = 1
    EXACT = 2


@dataclass(frozen=True)
class Prices:
    """Open, high, low and close of `trades` trades; volume in base and notional in quote currency, None if unknown."""

    open: float | None
    high: float | None
    low: float | None
    close: float | None
    volume: Decimal | float | None
    notional: Decimal | float | None
    trades: int


@dataclass(frozen=True)
class Candle:
    """A candle of this database: of the whole tape, and of the order book without block trades and combo legs."""

    at_ms: int
    kind: str
    whole: Prices
    book: Prices

    @property
    def has_other_trades(self) -> bool:
        """Whether it has block trades or combo legs, so that the two kinds of candles differ."""
        return self.whole.trades != self.book.trades


TradeContent = tuple[int, float, float]
"""Time in ms, price and amount of a trade, as the exchange sent them."""


@dataclass(frozen=True)
class Trade:
    """A trade of this database, as far as candles are made of it; block trades include those of RFQs."""

    content: TradeContent
    volume: Decimal | None
    notional: Decimal | None
    is_block: bool = False
    is_combo_leg: bool = False

    def with_content(self, content: TradeContent) -> Trade:
        """The trade with other values. Its amount is in USD if it was, otherwise in the base coin."""
        price, amount = Decimal(str(content[1])), Decimal(str(content[2]))
        if self.volume is None:
            volume, notional = None, None
        elif float(self.volume) == self.content[2]:
            volume, notional = amount, price * amount
        else:
            volume, notional = amount / price if price else Decimal(0), amount
        return replace(self, content=content, volume=volume, notional=notional)


def match(bar: Bar | None, prices: Prices, kind: str) -> Match:
    """How the bar agrees with the prices. A bar without volume agrees with no trades."""
    if not prices.trades:
        return Match.EXACT if bar is None or not bar.volume else Match.NONE
    if bar is None:
        return Match.NONE
    pairs = [
        _match_price(bar.open, prices.open),
        _match_price(bar.high, prices.high),
        _match_price(bar.low, prices.low),
        _match_price(bar.close, prices.close),
        _match_sum(bar.volume, prices.volume, prices.trades),
    ]
    if kind in KINDS_WITH_COST:
        pairs.append(_match_sum(bar.cost, prices.notional, prices.trades))
    return min(pairs)


def _match_price(exchange: float, own: float | None) -> Match:
    if own is None or exchange == own:
        return Match.NONE if own is None else Match.EXACT
    return Match.ROUNDED if abs(exchange - own) <= 1e-9 * abs(own) else Match.NONE


def _match_sum(exchange: float, own: Decimal | float | None, trades: int) -> Match:
    if own is None:
        return Match.EXACT
    value = float(own)
    if round(value, 8) == exchange:
        return Match.EXACT
    tolerance = ROUNDED_TO * (trades + 1) + RELATIVE_ERROR * abs(value)
    return Match.ROUNDED if abs(value - exchange) <= tolerance else Match.NONE


def classify(bar: Bar | None, candle: Candle | None) -> Classification | None:
    """The reason of a difference as far as the two show it; None if they are equal, UNEXPLAINED if they do not show it."""
    if candle is None:
        return Classification.NO_TRADES if bar is None or not bar.volume else Classification.UNEXPLAINED
    whole = match(bar, candle.whole, candle.kind)
    if whole is not Match.NONE:
        return None if whole is Match.EXACT else Classification.ROUNDING
    if match(bar, candle.book, candle.kind) is not Match.NONE:
        return Classification.BLOCK_OR_COMBO
    return Classification.UNEXPLAINED


def contradiction(
    bar: Bar | None, candle: Candle | None, bars: Sequence[Bar], candles: Sequence[Candle]
) -> str | None:
    """How a bar and a candle differ from their minutes, as a sentence; None if they are those of their minutes.

    `bars` and `candles` are all minutes of their time that exist, in its order.
    """
    kind = candle.kind if candle else ""
    traded = [each for each in bars if each.volume]
    minutes = [
        Prices(each.open, each.high, each.low, each.close, each.volume, each.cost, 1) for each in traded
    ]
    if match(bar, combine(minutes), kind) is Match.NONE:
        return "the exchange's bar is not that of its minutes"
    whole, book = combine([each.whole for each in candles]), combine([each.book for each in candles])
    own = (candle.whole, candle.book) if candle else (combine([]), combine([]))
    if not (_are_same(own[0], whole) and _are_same(own[1], book)):
        return "the candle is not that of its minutes"
    return None


def combine(minutes: Sequence[Prices]) -> Prices:
    """Prices of a time from those of its minutes, which are in its order; those without trades do not count."""
    minutes = [each for each in minutes if each.trades]
    if not minutes:
        return Prices(None, None, None, None, None, None, 0)
    return Prices(
        minutes[0].open,
        max(each.high for each in minutes if each.high is not None),
        min(each.low for each in minutes if each.low is not None),
        minutes[-1].close,
        _sum([each.volume for each in minutes]),
        _sum([each.notional for each in minutes]),
        sum(each.trades for each in minutes),
    )


def _sum(amounts: Sequence[Decimal | float | None]) -> Decimal | float | None:
    """Sum of amounts of one type, None if one is unknown."""
    known: list[Any] = [each for each in amounts if each is not None]
    return sum(known) if len(known) == len(amounts) else None


def _are_same(prices: Prices, others: Prices) -> bool:
    if prices.trades != others.trades or not prices.trades:
        return prices.trades == others.trades
    names = ("open", "high", "low", "close")
    pairs = ((prices.volume, others.volume), (prices.notional, others.notional))
    return all(getattr(prices, name) == getattr(others, name) for name in names) and all(
        one == other
        or (one is not None and other is not None and math.isclose(one, other, rel_tol=RELATIVE_ERROR))
        for one, other in pairs
    )


def describe(bar: Bar | None, candle: Candle | None) -> str:
    """The columns in which the two differ, with both values."""
    if bar is None:
        return "the exchange has no bar"
    if candle is None:
        return f"there is no candle, and the exchange has a volume of {bar.volume:.12g}"
    whole = candle.whole
    names = ("open", "high", "low", "close")
    texts = [
        f"{name} {getattr(whole, name):.12g} here, {getattr(bar, name):.12g} there"
        for name in names
        if _match_price(getattr(bar, name), getattr(whole, name)) is Match.NONE
    ]
    sums = [("volume", bar.volume, whole.volume)]
    sums += [("cost", bar.cost, whole.notional)] if candle.kind in KINDS_WITH_COST else []
    texts += [
        f"{name} {float(own):.12g} here, {exchange:.12g} there"
        for name, exchange, own in sums
        if own is not None and _match_sum(exchange, own, whole.trades) is Match.NONE
    ]
    return "; ".join(texts)


def explain(own: Mapping[int, Trade], exchange: Mapping[int, TradeContent]) -> tuple[Classification, str]:
    """The reason of a difference, from the trades of its time by trade_seq, and a sentence.

    `own` has the loaded trades of that time, and those of `exchange` that are loaded with another time. Whether restated
    trades explain the bar is left to `is_bar_of`.
    """
    if missing := sorted(exchange.keys() - own.keys()):
        return Classification.MISSING, f"not loaded: trade_seq {_format_seqs(missing)}"
    if unreturned := sorted(own.keys() - exchange.keys()):
        return (
            Classification.UNEXPLAINED,
            f"the exchange does not return trade_seq {_format_seqs(unreturned)}",
        )
    if restated := sorted(seq for seq, trade in own.items() if trade.content != exchange[seq]):
        return Classification.RESTATED, f"the exchange has other values of trade_seq {_format_seqs(restated)}"
    return Classification.UNEXPLAINED, "the trades are the same here and there"


def is_without_some_trades(bar: Bar | None, trades: Iterable[Trade], kind: str) -> bool:
    """Whether the bar is that of the trades without the block trades, without the combo legs, or without both.

    `trades` are in the order of their trade_seq.
    """
    trades = list(trades)
    subsets = (
        [each for each in trades if not (each.is_block or each.is_combo_leg)],
        [each for each in trades if not each.is_block],
        [each for each in trades if not each.is_combo_leg],
    )
    return any(
        len(subset) < len(trades) and match(bar, _prices_of(subset), kind) is not Match.NONE
        for subset in subsets
    )


def is_bar_of(bar: Bar | None, trades: Iterable[Trade], kind: str) -> bool:
    """Whether the bar is that of the trades, or of those that the exchange may count; in the order of their trade_seq."""
    trades = list(trades)
    return match(bar, _prices_of(trades), kind) is not Match.NONE or is_without_some_trades(bar, trades, kind)


def _prices_of(trades: Sequence[Trade]) -> Prices:
    if not trades:
        return Prices(None, None, None, None, None, None, 0)
    prices = [each.content[1] for each in sorted(trades, key=lambda each: each.content[0])]
    volumes = [each.volume for each in trades if each.volume is not None]
    notionals = [each.notional for each in trades if each.notional is not None]
    return Prices(
        prices[0],
        max(prices),
        min(prices),
        prices[-1],
        sum(volumes, Decimal(0)) if len(volumes) == len(trades) else None,
        sum(notionals, Decimal(0)) if len(notionals) == len(trades) else None,
        len(trades),
    )


def _format_seqs(seqs: list[int]) -> str:
    named = ", ".join(f"{seq}" for seq in seqs[:MAX_NAMED])
    return named + (f" and {len(seqs) - MAX_NAMED:,} more" if len(seqs) > MAX_NAMED else "")
