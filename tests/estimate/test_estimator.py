"""The reckoning behind a plan, on pages made by hand: no network."""

from __future__ import annotations

import random

import pytest

from extract.estimate.estimator import (
    Plan,
    SampledTrade,
    count_missing_heads,
    delete_plan,
    estimate_trades,
    load_plan,
    pages_for,
    plan_key,
    save_plan,
    trades_since,
)


def history(trades: int, instruments: int, seed: int = 1) -> list[SampledTrade]:
    """Instruments that take turns in being traded most, as options do; seqs from 1."""
    pick = random.Random(seed)
    seqs: dict[str, int] = {}
    found = []
    at_ms = 0
    for number in range(trades):
        # Bursts: time runs a hundred times slower in every third stretch.
        at_ms += 1 if number // 500 % 3 == 0 else 100
        alive = int(number / trades * instruments)
        name = f"I{pick.randint(alive, alive + 9)}"
        seqs[name] = seqs.get(name, 0) + 1
        found.append(SampledTrade(at_ms, name, seqs[name]))
    return found


def test_pages_that_touch_are_counted() -> None:
    """Each trade once, however far the pages overlap."""
    all_of_it = history(900, 5)
    pages = [all_of_it[:400], all_of_it[300:700], all_of_it[600:]]
    assert estimate_trades(pages, from_the_beginning=True).trades == 900
    assert estimate_trades([[]], from_the_beginning=True).trades == 0


@pytest.mark.parametrize("seed", range(5))
def test_what_lies_between_pages_is_told_by_seq(seed: int) -> None:
    """A twentieth of a bursty history is looked at, and the whole is known to a seventh."""
    all_of_it = history(40_000, 30, seed)
    pages = [all_of_it[at : at + 200] for at in range(0, 40_000, 4_000)] + [all_of_it[-200:]]
    assert estimate_trades(pages, from_the_beginning=True).trades == pytest.approx(40_000, rel=1 / 7)


@pytest.mark.parametrize("seed", range(5))
def test_instruments_that_live_shortly_are_reckoned_by_density(seed: int) -> None:
    """Hardly any lives from one page to the next: their seqs would tell of a few in a hundred of the trades."""
    all_of_it = [mark._replace(number=7 * at + 1) for at, mark in enumerate(history(40_000, 4_000, seed))]
    pages = [all_of_it[at : at + 200] for at in range(0, 40_000, 4_000)] + [all_of_it[-200:]]
    found = estimate_trades(pages, from_the_beginning=True)
    assert found.is_rough
    assert found.trades == pytest.approx(40_000, rel=0.1)


def test_what_never_expires_counts_from_where_it_is_seen() -> None:
    """A perpetual too quiet for the first page had most of its trades before the time that is asked for."""
    pages = [
        [SampledTrade(1, "BTC-PERPETUAL", 50)],
        [SampledTrade(9, "BTC-PERPETUAL", 60), SampledTrade(9, "X_USDC-PERPETUAL", 90_000)],
    ]
    assert estimate_trades(pages, from_the_beginning=False).trades < 30
    assert estimate_trades(pages, from_the_beginning=True).trades > 90_000


def test_the_newest_minutes_are_counted_or_reckoned() -> None:
    """A page that reaches back far enough tells exactly, a shorter one by its density."""
    page = [SampledTrade(at_ms, "A", at_ms) for at_ms in range(100, 200)]
    assert trades_since(page, 150, 199) == 50
    assert trades_since(page, 0, 200) == 200
    assert trades_since([], 0, 200) == 0


def test_an_instrument_that_does_not_begin_with_one_lacks_its_head() -> None:
    """The least seq counts, not the first on the page."""
    assert (
        count_missing_heads([SampledTrade(1, "A", 2), SampledTrade(1, "A", 1), SampledTrade(2, "B", 7)]) == 1
    )


def test_requests_for_a_stretch_of_time() -> None:
    """One that learns, then pages that are not all full."""
    assert [pages_for(trades, 1_000) for trades in (0, 1_000, 1_001, 7_000)] == [1, 1, 2, 9]


def test_a_plan_is_kept_until_it_is_forgotten(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """By question, and a file that cannot be read is no plan."""
    monkeypatch.setenv("TAPE_DIR", str(tmp_path))
    plan = Plan([], 1, 2, 3.0, 4, 5, "2026-01-01T00:00:00Z", ["an input"])
    key = plan_key("7d", None, ["eth", "BTC"], [])
    save_plan(plan, key)
    assert load_plan(plan_key("7d", None, ["BTC", "ETH"], ())) == plan
    assert load_plan(plan_key("8d", None, ["BTC", "ETH"], ())) is None
    delete_plan(key)
    assert load_plan(key) is None
    (tmp_path / "plan.json").write_text("{")
    assert load_plan(key) is None
