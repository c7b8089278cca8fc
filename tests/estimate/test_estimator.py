"""Estimates of trades and requests from generated sample pages."""

from __future__ import annotations

import random

import pytest

from extract.estimate.estimator import (
    SampledTrade,
    count_missing_heads,
    estimate_trades,
    pages_for,
    trades_since,
)


def history(trades: int, instruments: int, seed: int = 1) -> list[SampledTrade]:
    """Trades that move from one group of ten instruments to the next, as options do; trade_seq from 1."""
    pick = random.Random(seed)
    seqs: dict[str, int] = {}
    trades_so_far = []
    at_ms = 0
    for number in range(trades):
        # Bursts: time runs a hundred times slower in every third stretch.
        at_ms += 1 if number // 500 % 3 == 0 else 100
        alive = int(number / trades * instruments)
        name = f"I{pick.randint(alive, alive + 9)}"
        seqs[name] = seqs.get(name, 0) + 1
        trades_so_far.append(SampledTrade(at_ms, name, seqs[name]))
    return trades_so_far


def test_trades_of_overlapping_pages_are_counted_once() -> None:
    """Exactly, without an estimate."""
    trades = history(900, 5)
    pages = [trades[:400], trades[300:700], trades[600:]]
    assert estimate_trades(pages, from_the_beginning=True).trades == 900
    assert estimate_trades([[]], from_the_beginning=True).trades == 0


@pytest.mark.parametrize("seed", range(5))
def test_trades_between_pages_are_estimated_from_trade_seq(seed: int) -> None:
    """A twentieth of a bursty history is sampled, and the total is accurate to a seventh."""
    trades = history(40_000, 30, seed)
    pages = [trades[at : at + 200] for at in range(0, 40_000, 4_000)] + [trades[-200:]]
    assert estimate_trades(pages, from_the_beginning=True).trades == pytest.approx(40_000, rel=1 / 7)


@pytest.mark.parametrize("seed", range(5))
def test_trades_of_short_lived_instruments_are_estimated_from_density(seed: int) -> None:
    """Hardly any instrument trades on two pages, so trade_seq reveals only a few per cent of the trades."""
    trades = [mark._replace(number=7 * at + 1) for at, mark in enumerate(history(40_000, 4_000, seed))]
    pages = [trades[at : at + 200] for at in range(0, 40_000, 4_000)] + [trades[-200:]]
    estimate = estimate_trades(pages, from_the_beginning=True)
    assert estimate.is_rough
    assert estimate.trades == pytest.approx(40_000, rel=0.1)


def test_perpetual_counts_from_its_first_sampled_trade() -> None:
    """A perpetual that is not on the first page had most of its trades before the requested time."""
    pages = [
        [SampledTrade(1, "BTC-PERPETUAL", 50)],
        [SampledTrade(9, "BTC-PERPETUAL", 60), SampledTrade(9, "X_USDC-PERPETUAL", 90_000)],
    ]
    assert estimate_trades(pages, from_the_beginning=False).trades < 30
    assert estimate_trades(pages, from_the_beginning=True).trades > 90_000


def test_newest_minutes_are_counted_or_estimated() -> None:
    """A page that reaches back far enough is counted, a shorter one extrapolated."""
    page = [SampledTrade(at_ms, "A", at_ms) for at_ms in range(100, 200)]
    assert trades_since(page, 150, 199) == 50
    assert trades_since(page, 0, 200) == 200
    assert trades_since([], 0, 200) == 0


def test_instrument_whose_first_trade_seq_is_above_one_has_a_missing_head() -> None:
    """The smallest trade_seq decides, not the first one on the page."""
    assert (
        count_missing_heads([SampledTrade(1, "A", 2), SampledTrade(1, "A", 1), SampledTrade(2, "B", 7)]) == 1
    )


def test_requests_for_a_number_of_trades() -> None:
    """One probe, then pages that are not all full."""
    assert [pages_for(trades, 1_000) for trades in (0, 1_000, 1_001, 7_000)] == [1, 1, 2, 9]
