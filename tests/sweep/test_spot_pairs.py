"""Trades of a spot pair come once, whichever of its two currencies the exchange lists it under."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from extract.deribit.streams import Stream
from extract.sweep.state import StreamState
from extract.sweep.window import SweepRequest
from extract.sweep.windows import WindowReader, sweep_windows
from tests.support.contradictory_exchange import client_of, page
from tests.support.histories import BEGIN_MS, Record, trade

NOW_MS = BEGIN_MS + 3_600_000
PAIR = "ETH_BTC"
TRADES = [trade(PAIR, n, n, BEGIN_MS + n * 1_000) for n in range(1, 9)]


class Exchange:
    """Lists one pair, and returns its trades, under some currencies; `expired`: it is not live any more.

    `listed`: the currencies that list it, if those are others than the ones that have its trades.
    """

    def __init__(
        self, currencies: tuple[str, ...], *, expired: bool = False, listed: tuple[str, ...] = ()
    ) -> None:
        self.currencies, self.expired, self.listed = currencies, expired, listed or currencies
        self.lists: list[str] = []
        self.by_time: list[str] = []
        self.now_ms = NOW_MS

    def __call__(self, method: str, params: dict[str, str]) -> Any:
        if method == "get_time":
            return {"result": self.now_ms}
        if "start_seq" in params:
            first, last = int(params["start_seq"]), int(params["end_seq"])
            return page([each for each in TRADES if first <= each["trade_seq"] <= last])
        trades: list[Record] = TRADES if params["currency"] in self.currencies else []
        if method == "get_instruments":
            self.lists.append(params["currency"])
            is_listed = params["currency"] in self.listed and (params["expired"] == "true") == self.expired
            return {"result": [{"instrument_name": PAIR, "kind": "spot"}] if is_listed else []}
        self.by_time.append(params["currency"])
        first, last = int(params["start_timestamp"]), int(params["end_timestamp"])
        return page([each for each in trades if first <= each["timestamp"] <= last])


def load(
    exchange: Exchange, *currencies: str, states: dict[Stream, StreamState] | None = None
) -> dict[str, Counter[int]]:
    """The loaded numbers by currency."""
    states = states or {Stream(currency, "spot"): StreamState() for currency in currencies}
    loaded: dict[str, Counter[int]] = {}
    with client_of(exchange) as client:
        request = SweepRequest(BEGIN_MS, machine_s=lambda: exchange.now_ms / 1000)
        for table in WindowReader(sweep_windows(client, request, states)).tables():
            rows = zip(
                table.column("currency").to_pylist(), table.column("trade_seq").to_pylist(), strict=True
            )
            for currency, seq in rows:
                loaded.setdefault(currency, Counter())[seq] += 1
    return loaded


ALL = Counter(each["trade_seq"] for each in TRADES)


@pytest.mark.parametrize("expired", [False, True], ids=["live", "expired"])
@pytest.mark.parametrize("requested", [("BTC", "ETH"), ("ETH", "BTC")])
def test_pair_that_is_listed_under_both_currencies_belongs_to_its_base(
    requested: tuple[str, ...], expired: bool
) -> None:
    exchange = Exchange(("BTC", "ETH"), expired=expired)
    assert load(exchange, *requested) == {"ETH": ALL}
    assert len(exchange.lists) <= 2


def test_pair_belongs_to_its_base_also_if_only_the_quote_is_requested() -> None:
    """Otherwise a later run of the base would load it again."""
    assert load(Exchange(("BTC", "ETH")), "BTC") == {}


@pytest.mark.parametrize("requested", [("BTC", "ETH"), ("ETH", "BTC"), ("BTC",)])
def test_pair_that_is_listed_under_both_currencies_and_traded_under_its_quote_is_loaded_there(
    requested: tuple[str, ...],
) -> None:
    """Whether the base currency is loaded in the same run or not."""
    assert load(Exchange(("BTC",), listed=("BTC", "ETH")), *requested) == {"BTC": ALL}


def test_next_run_of_a_pair_that_is_traded_under_its_quote_loads_only_what_is_new() -> None:
    exchange = Exchange(("BTC",), listed=("BTC", "ETH"))
    states = {Stream(currency, "spot"): StreamState() for currency in ("BTC", "ETH")}
    exchange.now_ms = TRADES[3]["timestamp"] + 61_000
    first = load(exchange, states=states)
    exchange.now_ms = NOW_MS
    assert first["BTC"] + load(exchange, states=states)["BTC"] == ALL


def test_pair_of_the_base_needs_no_further_request_where_both_currencies_are_loaded() -> None:
    exchange = Exchange(("BTC", "ETH"))
    load(exchange, "BTC", "ETH")
    both = len(exchange.by_time)
    exchange.by_time.clear()
    load(exchange, "ETH")
    alone = len(exchange.by_time)
    assert both == 2 * alone


@pytest.mark.parametrize("only", ["BTC", "ETH"])
def test_pair_that_is_listed_under_one_currency_is_loaded_there(only: str) -> None:
    assert load(Exchange((only,)), "BTC", "ETH") == {only: ALL}


def test_lists_are_requested_once_for_all_pairs_of_a_currency() -> None:
    """A run a minute must not request them for each pair."""
    names = [f"ETH_{quote}" for quote in ("BTC", "USDC", "USDT")]
    requests = []

    def answer(method: str, params: dict[str, str]) -> Any:
        requests.append(params["expired"])
        return {"result": [{"instrument_name": name} for name in names if params["expired"] == "false"]}

    with client_of(answer) as client:
        assert [client.lists_pair("ETH", name) for name in names] == [True] * 3
        assert requests == ["false"]
        for _ in range(2):
            assert not client.lists_pair("ETH", "ETH_NEW")
        assert requests == ["false", "false", "true"]
