"""Comparison of a bar of the exchange with a candle, and the reason of a difference."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from extract.deribit.chart import Bar
from extract.verify.classify import (
    Candle,
    Classification,
    Match,
    Prices,
    Trade,
    classify,
    contradiction,
    describe,
    explain,
    is_bar_of,
    is_without_some_trades,
    match,
)

WHOLE = Prices(10.0, 12.0, 9.0, 11.0, Decimal("3.000000001"), Decimal("33.00"), 3)
BOOK = Prices(10.0, 10.0, 9.0, 9.0, Decimal("2"), Decimal("19"), 2)
CANDLE = Candle(0, "future", WHOLE, BOOK)
BAR = Bar(0, 10.0, 12.0, 9.0, 11.0, 3.0, 33.0)
OF_BOOK = Bar(0, 10.0, 10.0, 9.0, 9.0, 2.0, 19.0)


@pytest.mark.parametrize(
    ("bar", "candle", "expected"),
    [
        (BAR, CANDLE, None),
        (OF_BOOK, CANDLE, Classification.BLOCK_OR_COMBO),
        (replace(BAR, volume=3.00000003), CANDLE, Classification.ROUNDING),
        (replace(BAR, volume=3.0000001), CANDLE, Classification.UNEXPLAINED),
        (replace(BAR, close=11.5), CANDLE, Classification.UNEXPLAINED),
        (replace(BAR, cost=34.0), CANDLE, Classification.UNEXPLAINED),
        (replace(BAR, cost=34.0), replace(CANDLE, kind="option"), None),
        (Bar(0, 9.0, 9.0, 9.0, 9.0, 0.0, 0.0), None, Classification.NO_TRADES),
        (BAR, None, Classification.UNEXPLAINED),
        (None, CANDLE, Classification.UNEXPLAINED),
        (Bar(0, 9.0, 9.0, 9.0, 9.0, 0.0, 0.0), CANDLE, Classification.UNEXPLAINED),
    ],
)
def test_difference_is_classified(
    bar: Bar | None, candle: Candle | None, expected: Classification | None
) -> None:
    assert classify(bar, candle) is expected


@pytest.mark.parametrize("bar", [None, Bar(0, 9.0, 9.0, 9.0, 9.0, 0.0, 0.0)])
def test_bar_without_trades_is_that_of_a_minute_with_block_trades_alone(bar: Bar | None) -> None:
    book = Prices(None, None, None, None, Decimal(0), Decimal(0), 0)
    assert classify(bar, replace(CANDLE, book=book)) is Classification.BLOCK_OR_COMBO


def test_unknown_volume_is_not_compared() -> None:
    """Combos of inverse futures have neither a volume in the base coin nor a notional."""
    prices = replace(WHOLE, volume=None, notional=None)
    assert match(replace(BAR, volume=99.0, cost=99.0), prices, "future_combo") is Match.EXACT


def test_description_names_the_columns_that_differ() -> None:
    assert (
        describe(replace(BAR, close=11.5, cost=34.0), CANDLE)
        == "close 11 here, 11.5 there; cost 33 here, 34 there"
    )


ONE = Trade((1_000, 10.0, 1.0), Decimal(1), Decimal(10))
BLOCK = Trade((2_000, 12.0, 2.0), Decimal(2), Decimal(24), is_block=True)
LEG = Trade((3_000, 8.0, 1.0), Decimal(1), Decimal(8), is_combo_leg=True)


@pytest.mark.parametrize(
    ("exchange", "classification", "detail"),
    [
        ({1: ONE.content, 2: BLOCK.content}, Classification.UNEXPLAINED, "the same"),
        ({1: ONE.content, 2: BLOCK.content, 7: (2_500, 9.0, 1.0)}, Classification.MISSING, "trade_seq 7"),
        ({1: ONE.content, 2: (2_000, 12.5, 2.0)}, Classification.RESTATED, "trade_seq 2"),
        ({1: ONE.content}, Classification.UNEXPLAINED, "does not return trade_seq 2"),
        ({1: (1_000, 10.5, 1.0)}, Classification.UNEXPLAINED, "does not return trade_seq 2"),
        ({}, Classification.UNEXPLAINED, "does not return trade_seq 1, 2"),
    ],
)
def test_difference_is_explained_by_trades(
    exchange: dict[int, tuple[int, float, float]], classification: Classification, detail: str
) -> None:
    reason = explain({1: ONE, 2: BLOCK}, exchange)
    assert reason[0] is classification
    assert detail in reason[1]


def test_restated_trades_make_another_bar() -> None:
    """Their volume and notional are in the units of the loaded ones; the exchange may leave out a restated block trade."""
    linear = [ONE, BLOCK.with_content((2_000, 12.5, 2.0))]
    assert is_bar_of(Bar(0, 10.0, 12.5, 10.0, 12.5, 3.0, 35.0), linear, "spot")
    assert is_bar_of(Bar(0, 10.0, 10.0, 10.0, 10.0, 1.0, 10.0), linear, "spot")
    assert not is_bar_of(Bar(0, 10.0, 12.0, 10.0, 12.0, 3.0, 34.0), linear, "spot")
    inverse = Trade((1_000, 10.0, 20.0), Decimal(2), Decimal(20)).with_content((1_500, 8.0, 40.0))
    assert is_bar_of(Bar(0, 8.0, 8.0, 8.0, 8.0, 5.0, 40.0), [inverse], "future")
    assert not is_bar_of(Bar(0, 8.0, 8.0, 8.0, 8.0, 40.0, 320.0), [inverse], "future")
    combo = Trade((1_000, 10.0, 20.0), None, None).with_content((1_000, 11.0, 20.0))
    assert is_bar_of(Bar(0, 11.0, 11.0, 11.0, 11.0, 20.0, 20.0), [combo], "future_combo")


def test_exchange_may_leave_out_blocks_alone_or_legs_alone() -> None:
    without_block = Bar(0, 10.0, 10.0, 8.0, 8.0, 2.0, 18.0)
    without_leg = Bar(0, 10.0, 12.0, 10.0, 12.0, 3.0, 34.0)
    trades = [ONE, BLOCK, LEG]
    assert is_without_some_trades(without_block, trades, "future")
    assert is_without_some_trades(without_leg, trades, "future")
    assert is_without_some_trades(Bar(0, 10.0, 10.0, 10.0, 10.0, 1.0, 10.0), trades, "future")
    assert not is_without_some_trades(replace(without_leg, close=11.0), trades, "future")
    assert not is_without_some_trades(Bar(0, 10.0, 10.0, 10.0, 10.0, 1.0, 10.0), [ONE], "future")


def test_bar_and_candle_are_those_of_their_minutes() -> None:
    """A coarse bar or candle that its minutes do not add up to is named; minutes without trades do not count."""
    early = Prices(10.0, 12.0, 10.0, 12.0, Decimal("1.000000001"), Decimal(12), 1)
    late = Prices(11.0, 11.0, 9.0, 11.0, Decimal(2), Decimal(21), 2)
    none = Prices(None, None, None, None, Decimal(0), Decimal(0), 0)
    candles = [Candle(0, "future", early, none), Candle(60_000, "future", late, BOOK)]
    bars = [
        Bar(0, 10.0, 12.0, 10.0, 12.0, 1.0, 12.0),
        Bar(60_000, 12.0, 12.0, 12.0, 12.0, 0.0, 0.0),
        Bar(120_000, 11.0, 11.0, 9.0, 11.0, 2.0, 21.0),
    ]
    assert contradiction(BAR, CANDLE, bars, candles) is None
    assert contradiction(None, None, [], []) is None
    assert contradiction(replace(BAR, close=9.0), CANDLE, bars, candles) == (
        "the exchange's bar is not that of its minutes"
    )
    for wrong in (
        replace(CANDLE, whole=replace(WHOLE, high=13.0)),
        replace(CANDLE, whole=replace(WHOLE, volume=Decimal(3))),
        replace(CANDLE, book=replace(BOOK, trades=1)),
        None,
    ):
        assert contradiction(BAR, wrong, bars, candles) == "the candle is not that of its minutes"
