"""The sandbox imitates Deribit's quirks: naive crawlers lose trades, careful ones do not."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from extract.sandbox.instrument_names import parse
from extract.sandbox.tape import Tape
from tests.support.crawler import CLIENT, by_seq, careful, currencies, get, key, naive, sweep
from tests.support.recorded import RECORDED_TAPE, needs_recordings

PERP = "BTC-PERPETUAL"
BY_INSTRUMENT = "get_last_trades_by_instrument"


@pytest.fixture(scope="session")
def long_tape() -> Tape:
    """One perpetual with enough trades for a range of 10,000."""
    perpetual = {
        "tick_direction": 0,
        "price": 1.0,
        "amount": 10.0,
        "direction": "buy",
        "instrument_name": PERP,
    }
    return Tape.of(
        perpetual | {"trade_seq": seq, "trade_id": str(seq), "timestamp": 1_700_000_000_000 + seq}
        for seq in range(1, 20_011)
    )


def seqs(exchange, low, high, count, **more) -> list[int]:
    ask = {"instrument_name": PERP, "start_seq": low, "end_seq": high, "count": count, "sorting": "asc"}
    return [trade["trade_seq"] for trade in get(exchange, BY_INSTRUMENT, **ask | more)["trades"]]


@pytest.mark.parametrize("sorting", ["asc", "desc", "default"])
def test_pages_have_local_inversions(start_exchange, long_tape, sorting):
    """About one adjacent pair in five and both ends are out of order, and no trade is far from its place."""
    page = seqs(start_exchange(long_tape), 1, 20_000, 10_000, sorting=sorting)
    forward = page if sorting == "asc" else page[::-1]
    start = min(page)
    inversions = sum(a > b for a, b in pairwise(forward))
    assert 1000 < inversions < 3000
    assert forward[0] != min(page)
    assert forward[-1] != max(page)
    assert max(abs(seq - start - place) for place, seq in enumerate(forward)) <= 3
    assert len(set(page)) == 10_000


def test_full_range_of_10_000_seqs_lacks_three(start_exchange, long_tape):
    """5,001 to 15,000 returns 10,000 rows, three of them from above the range."""
    exchange = start_exchange(long_tape)
    page = seqs(exchange, 5001, 15_000, 10_000)
    assert len(set(page)) == 10_000
    assert sorted(set(page) - set(range(5001, 15_001))) == [15_001, 15_002, 15_003]
    assert len(set(range(5001, 15_001)) - set(page)) == 3
    assert page == seqs(exchange, 5001, 15_000, 10_000)


def test_smaller_full_range_lacks_one_seq(start_exchange, long_tape):
    """It has one from below instead, also on the live host."""
    exchange = start_exchange(long_tape)
    page = seqs(exchange, 2001, 3000, 1000, live=True)
    assert len(set(page)) == 1000
    assert set(page) - set(range(2001, 3001)) == {2000}
    (lost,) = set(range(2001, 3001)) - set(page)
    assert lost in seqs(exchange, lost - 100, lost + 100, 1000)


def test_splitting_a_range_returns_every_seq(start_exchange, long_tape):
    """Halving incomplete ranges ends, even if each half is requested at full size."""
    exchange = start_exchange(long_tape)
    assert len(by_seq(exchange, PERP, 4001, 4500, 500)) == 500
    assert 10 < len(exchange.requests) < 500


def test_has_more_is_unreliable(exchange, small_tape):
    """Sometimes true on a last page and false on others; the same request always returns the same."""
    last, not_last = set(), set()
    names = sorted({trade["instrument_name"] for trade in small_tape.trades})
    for name in names[:60]:
        ask = {"instrument_name": name, "start_seq": 1}
        whole = get(exchange, BY_INSTRUMENT, count=10_000, **ask)
        assert whole["has_more"] == get(exchange, BY_INSTRUMENT, count=10_000, **ask)["has_more"]
        last.add(whole["has_more"])
        if len(whole["trades"]) > 1:
            not_last.add(get(exchange, BY_INSTRUMENT, count=1, **ask)["has_more"])
    assert last == not_last == {True, False}


def test_quirks_can_be_switched_off(start_exchange, long_tape):
    """Pages are sorted and ranges complete."""
    assert seqs(start_exchange(long_tape, quirks=False), 5001, 15_000, 10_000) == list(range(5001, 15_001))


@pytest.mark.parametrize("page", [50, 200])
def test_naive_crawler_loses_trades_and_careful_one_does_not(exchange, small_tape, page):
    """The responses suffice to fetch every trade, but not by trusting their order or has_more."""
    truth = {key(trade): trade for trade in small_tape.trades}
    lost = careless = 0
    got = {}
    for currency in currencies(exchange):
        mine = {each for each in truth if parse(each[0]).currency == currency}
        careless += len(mine - naive(exchange, currency, page).keys())
        got |= careful(exchange, currency, page)
        lost += len(mine - got.keys())
    assert careless > 0
    assert lost == 0
    assert got == truth


def test_burst_larger_than_a_page_is_available_by_seq(start_exchange):
    """1,500 trades of one millisecond do not fit a live page of 1,000, but are returned by trade_seq."""
    tape = Tape.generate(trades=16_000, days=1, burst=1500)
    exchange = start_exchange(tape)
    got = {}
    for currency in currencies(exchange):
        got |= careful(exchange, currency, 1000)
    assert got == {key(trade): trade for trade in tape.trades}


@pytest.mark.slow
@needs_recordings
def test_recorded_tape_is_crawled_completely(start_exchange):
    """A crawl by time in pages of 10,000 returns all 73,548 trades, equal to the recorded ones."""
    tape = Tape.load(RECORDED_TAPE)
    exchange = start_exchange(tape)
    got = sweep(exchange, "BTC", 10_000) | sweep(exchange, "ETH", 10_000)
    assert got == {key(trade): trade for trade in tape.trades}


def test_bodies_are_valid_json(exchange):
    """json parses them, and Content-Length is right."""
    answer = CLIENT.get(f"{exchange.history_url}/public/get_last_trades_by_currency?currency=BTC&count=1000")
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert len(json.loads(answer.content)["result"]["trades"]) == 1000
