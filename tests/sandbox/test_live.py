"""A live tape: the generated history moved to any end, and trades after it as the clock moves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

import pytest

from extract.sandbox.instrument_names import DAY_MS, HOUR_MS, parse
from extract.sandbox.live import LiveTape
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import DEFAULT_END_MS, Tape, trade_order
from tests.support.crawler import get

END_MS = DEFAULT_END_MS + 317 * DAY_MS + 3 * HOUR_MS + 25 * 60_000
"""Of a history that ends at another time of the day than the default one, on another day of the week."""
SAME = ("trade_seq", "trade_id", "price", "mark_price", "index_price", "amount", "direction", "iv")


def live(end_ms: int = END_MS) -> LiveTape:
    return LiveTape(end_ms, seed=1, trades=3000, days=3)


@pytest.fixture(scope="module")
def day() -> tuple[LiveTape, list[dict]]:
    """A live tape, and its trades of the first day after the history."""
    tape = live()
    return tape, tape.until(END_MS + DAY_MS)


def test_history_is_the_generated_tape_moved_in_time(
    day: tuple[LiveTape, list[dict]], small_tape: Tape
) -> None:
    """Every trade has the same numbers and prices, at the same distance from the end."""
    moved = day[0].history.trades
    assert len(moved) == len(small_tape.trades) == 3000
    for before, after in zip(small_tape.trades, moved, strict=True):
        assert [before.get(name) for name in SAME] == [after.get(name) for name in SAME]
        assert after["timestamp"] - END_MS == before["timestamp"] - DEFAULT_END_MS
    assert moved == sorted(moved, key=trade_order)


def test_trades_are_within_the_lifetime_of_their_instrument(day: tuple[LiveTape, list[dict]]) -> None:
    """Names and expiries are moved alike, to 08:00 UTC of another day, and combos refer to moved names."""
    tape, later = day
    entries = {entry["instrument_name"]: entry for entry in tape.history.instruments}
    assert len(entries) == len(tape.history.instruments)
    expired = 0
    for trade in tape.history.trades + later:
        entry = entries[trade["instrument_name"]]
        assert entry["creation_timestamp"] <= trade["timestamp"]
        expiry_ms = entry.get("expiration_timestamp")
        if expiry_ms is not None and "PERPETUAL" not in trade["instrument_name"]:
            assert trade["timestamp"] < expiry_ms
            expired += expiry_ms < END_MS
            if parse(trade["instrument_name"]).kind in ("future", "option"):
                assert expiry_ms == parse(trade["instrument_name"]).expiry_ms
        assert trade.get("combo_id", trade["instrument_name"]) in entries
        for leg in trade.get("legs", ()):
            assert leg["instrument_name"] in entries
            assert 0 <= leg["timestamp"] - trade["timestamp"] <= 1
    assert expired > 100


def test_trades_after_the_history_continue_its_sequence_numbers(day: tuple[LiveTape, list[dict]]) -> None:
    """Numbers without holes, ids and times ascending, at least one trade a minute."""
    tape, later = day
    seqs: dict[str, list[int]] = defaultdict(list)
    for trade in sorted(tape.history.trades + later, key=lambda each: each["trade_seq"]):
        seqs[trade["instrument_name"]].append(trade["trade_seq"])
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in seqs.values())
    assert min(trade["timestamp"] for trade in later) >= END_MS
    times = sorted(trade["timestamp"] for trade in later)
    assert max(after - before for before, after in pairwise(times)) < 60_000


def test_trades_do_not_depend_on_when_they_are_requested(day: tuple[LiveTape, list[dict]]) -> None:
    """In steps of minutes or all at once, the same trades; before the clock has moved by an hour, none are added."""
    stepwise = live()
    trades = [trade for minute in range(0, 180, 7) for trade in stepwise.until(END_MS + minute * 60_000)]
    assert trades == day[1][: len(trades)]
    assert len(trades) >= 3 * 1_800
    assert stepwise.until(END_MS) == []


@pytest.fixture
def exchange() -> Iterator[SandboxExchange]:
    tape = live()
    with SandboxExchange(tape.history, clock=END_MS, extend=tape.until) as running:
        yield running


def test_exchange_trades_as_its_clock_moves(
    exchange: SandboxExchange, day: tuple[LiveTape, list[dict]]
) -> None:
    """A request sees the trades until now and none of later; series include what was traded."""
    for hours in (0, 1, 30 / 60):  # back in time too
        exchange.now_ms = END_MS + int(hours * HOUR_MS)
        latest = get(exchange, "get_last_trades_by_currency", live=True, currency="BTC", count=1)["trades"][0]
        expected = [
            trade
            for trade in day[0].history.trades + day[1]
            if parse(trade["instrument_name"]).currency == "BTC" and trade["timestamp"] <= exchange.now_ms
        ]
        assert latest["timestamp"] == max(trade["timestamp"] for trade in expected)
    before = exchange.series("funding_rates", "BTC-PERPETUAL")
    exchange.now_ms = END_MS + 5 * HOUR_MS
    get(exchange, "get_time", live=True)
    after = exchange.series("funding_rates", "BTC-PERPETUAL")
    assert after[: len(before)] == before
    assert len(after) == len(before) + 5 - (before[-1]["timestamp"] > END_MS)
    assert len({row["interest_1h"] for row in after[-4:]}) == 4
