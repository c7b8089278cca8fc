"""The volatility index is loaded in batches that are complete on their own."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest

from extract.deribit.series.grid import CursorStuckError
from extract.deribit.series.state import SeriesState
from extract.deribit.series.volatility_index import fetch_volatility_index
from extract.errors import UsageError
from tests.support.contradictory_exchange import client_of
from tests.support.series_exchange import BEGIN, DAY, HOUR, Loader, Peculiarities, SeriesExchange


def test_interrupted_history_continues_after_its_last_batch() -> None:
    """The next run is due at once, and loads nothing twice."""
    minutes, minute_ms = 25_000, 60_000
    candles = {BEGIN + minute * minute_ms: [1.0, 1.0, 1.0, 1.0] for minute in range(minutes)}
    exchange = SeriesExchange(Peculiarities(limit=1_000), candles=candles)
    loader = Loader(exchange.answer, "timestamp")
    now_ms = BEGIN + minutes * minute_ms + minute_ms * 3 // 2

    def batches() -> object:
        return fetch_volatility_index(loader.client, "BTC", "60", loader.state, now_ms, since_ms=BEGIN)

    first = loader.load(islice(batches(), 1))
    assert 0 < first < minutes
    assert first + loader.load(batches()) == minutes == len(loader.rows)
    assert list(batches()) == []


@pytest.mark.parametrize("now_ms", [BEGIN, BEGIN - 10 * 365 * 24 * HOUR])
def test_currency_without_an_index_costs_two_requests_a_day(now_ms: int) -> None:
    """Also at a time before the first candle of any currency."""
    loader = Loader(SeriesExchange().answer, "timestamp")
    for hours in (0, 1, 23, 24):
        at_ms = now_ms + hours * HOUR
        loader.load(fetch_volatility_index(loader.client, "USDC", "3600", loader.state, at_ms))
    assert loader.requests == (4 if now_ms == BEGIN else 0)
    assert loader.state.requested_ms == now_ms + 24 * HOUR


def test_history_that_was_empty_in_the_first_run_is_loaded_whole_later() -> None:
    exchange = SeriesExchange(candles={BEGIN + hour * HOUR: [1.0, 2.0, 0.5, 1.0] for hour in range(2_000)})
    is_empty = True

    def answer(method: str, params: dict[str, str]) -> dict[str, Any]:
        empty = {"result": {"data": [], "continuation": None}}
        return empty if is_empty else exchange.answer(method, params)

    loader = Loader(answer, "timestamp")

    def run(now_ms: int) -> int:
        return loader.load(fetch_volatility_index(loader.client, "BTC", "3600", loader.state, now_ms))

    now_ms = BEGIN + 2_000 * HOUR + HOUR // 2
    assert run(now_ms) == 0
    is_empty = False
    assert run(now_ms + DAY) == 2_000


def test_reading_again_loads_restated_candles_of_an_old_year() -> None:
    hours = 12_000
    candles = {BEGIN + hour * HOUR: [1.0, 1.0, 1.0, 1.0] for hour in range(hours)}
    exchange = SeriesExchange(Peculiarities(limit=1_000), candles=candles)
    loader = Loader(exchange.answer, "timestamp")
    now_ms = BEGIN + hours * HOUR + HOUR // 2

    def run(*, again: bool) -> int:
        return loader.load(
            fetch_volatility_index(
                loader.client, "BTC", "3600", loader.state, now_ms, since_ms=BEGIN, again=again
            )
        )

    run(again=False)
    assert run(again=True) == 0
    candles[BEGIN + 2_000 * HOUR] = [2.0, 2.0, 2.0, 2.0]
    assert run(again=True) > 0
    assert loader.rows[(BEGIN + 2_000 * HOUR,)]["close"] == 2.0
    assert run(again=True) == 0


def test_candle_that_is_missing_does_not_hide_older_ones() -> None:
    """An answer has the newest thousand candles of the requested time, without a continuation."""
    candles = {BEGIN + hour * HOUR: [1.0, 1.0, 1.0, 1.0] for hour in range(5_000) if hour != 4_990}
    exchange = SeriesExchange(Peculiarities(limit=1_000), candles=candles)

    def answer(method: str, params: dict[str, str]) -> dict[str, Any]:
        return {"result": exchange.answer(method, params)["result"] | {"continuation": None}}

    loader = Loader(answer, "timestamp")
    now_ms = BEGIN + 5_000 * HOUR + HOUR // 2
    assert loader.load(fetch_volatility_index(loader.client, "BTC", "3600", SeriesState(), now_ms)) == 4_999
    assert [gap.first_ms for gap in loader.gaps] == [BEGIN + 4_990 * HOUR]


def test_candles_that_appear_before_the_first_ones_are_an_error() -> None:
    """The first window of minutes was empty by mistake: its candles would be before the history."""
    minute_ms = 60_000
    candles = {BEGIN + minute * minute_ms: [1.0, 1.0, 1.0, 1.0] for minute in range(25_000)}
    exchange = SeriesExchange(Peculiarities(limit=1_000), candles=candles)
    answers = 0

    def answer(method: str, params: dict[str, str]) -> dict[str, Any]:
        nonlocal answers
        answers += 1
        return (
            {"result": {"data": [], "continuation": None}}
            if 1 < answers < 4
            else exchange.answer(method, params)
        )

    loader = Loader(answer, "timestamp")
    now_ms = BEGIN + 25_000 * minute_ms + minute_ms * 3 // 2

    def run() -> int:
        batches = fetch_volatility_index(loader.client, "BTC", "60", loader.state, now_ms, since_ms=BEGIN)
        return loader.load(batches)

    with pytest.raises(CursorStuckError, match="at first"):
        run()
    assert run() == 25_000


def test_continuation_that_does_not_move_is_an_error() -> None:
    def answer(method: str, params: dict[str, str]) -> dict[str, object]:
        return {"result": {"data": [], "continuation": int(params["end_timestamp"])}}

    with client_of(answer) as client, pytest.raises(CursorStuckError):
        list(fetch_volatility_index(client, "BTC", "3600", SeriesState(), BEGIN))


def test_unknown_resolution_is_the_users_mistake() -> None:
    with client_of(lambda method, params: {}) as client, pytest.raises(UsageError, match="3600"):
        list(fetch_volatility_index(client, "BTC", "7", SeriesState(), BEGIN))


@pytest.mark.parametrize("odd_ms", [0, BEGIN + 400 * DAY])
def test_candle_at_an_impossible_time_is_rejected(odd_ms: int) -> None:
    exchange = SeriesExchange(candles={BEGIN + hour * HOUR: [1.0, 2.0, 0.5, 1.5] for hour in range(10)})

    def answer(method: str, params: dict[str, str]) -> dict[str, Any]:
        result = exchange.answer(method, params)
        result["result"]["data"].append([odd_ms, 1.0, 2.0, 0.5, 1.5])
        return result

    loader = Loader(answer, "timestamp")
    now_ms = BEGIN + 10 * HOUR + HOUR // 2
    batches = fetch_volatility_index(loader.client, "BTC", "3600", loader.state, now_ms, since_ms=BEGIN)
    assert loader.load(batches) == 10
    assert len(loader.rejected) == 1
