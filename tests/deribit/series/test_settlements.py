"""Settlements: continuations that end too early or do not move, and expired instruments without a delivery."""

from __future__ import annotations

from typing import Any

import pytest

from extract.deribit.series.grid import CursorStuckError
from extract.deribit.series.settlements import (
    Continue,
    Latest,
    SettlementPager,
    UndeliveredError,
    fetch_settlements,
    require_deliveries,
)
from tests.support.series_exchange import BEGIN, DAY, HOUR, Loader, Peculiarities, SeriesExchange


def delivery(day: int, name: str, **fields: Any) -> dict[str, Any]:
    at_ms = BEGIN + day * DAY + 8 * HOUR
    return {"type": "delivery", "timestamp": at_ms, "instrument_name": name, "index_price": 1.0} | fields


def test_walk_back_ends_at_known_time() -> None:
    pager = SettlementPager(stop_ms=100)
    assert pager.request == Latest()
    pager.feed([300, 200], 2, "a")
    assert pager.request == Continue("a")
    pager.feed([150, 90], 2, "b")
    assert pager.request is None


def test_walk_that_ends_too_early_is_continued_from_its_oldest_time() -> None:
    """An empty page, or a missing continuation, is not believed before older rows were requested twice."""
    pager = SettlementPager()
    pager.feed([300, 200], 2, "a")
    pager.feed([], 0, None)
    assert pager.request == Latest(201)
    pager.feed([200, 100], 1, None)
    assert pager.request == Latest(101)
    pager.feed([100], 0, None)
    assert pager.request == Latest(99)
    pager.feed([], 0, None)
    assert pager.request == Latest(99)
    pager.feed([], 0, None)
    assert pager.request is None


def test_walk_without_any_row_is_repeated_once() -> None:
    pager = SettlementPager()
    pager.feed([], 0, None)
    assert pager.request == Latest()
    pager.feed([], 0, None)
    assert pager.request is None


def test_request_that_does_not_return_the_oldest_row_proves_nothing() -> None:
    """The walk ended after its first page, and nothing is returned for what is older."""
    pager = SettlementPager()
    pager.feed([300, 200], 2, None)
    pager.feed([], 0, None)
    assert pager.request == Latest(201)
    with pytest.raises(CursorStuckError, match="returns none"):
        pager.feed([], 0, None)


def test_walk_that_ends_among_rows_of_one_time_is_an_error() -> None:
    """Thirty deliveries of one moment do not fit a page of twenty, and there is no continuation."""
    later = [delivery(40, f"I-{number}") for number in range(30)]
    rows = [*later, *(delivery(day, f"J-{day}") for day in range(40))]
    exchange = SeriesExchange(Peculiarities(limit=20), settled=rows)

    def answer(method: str, params: dict[str, str]) -> dict[str, Any]:
        result: dict[str, Any] = exchange.answer(method, params)
        result["result"]["continuation"] = None
        return result

    loader = Loader(answer, "instrument_name")
    batches = fetch_settlements(loader.client, "BTC", "delivery", loader.state, BEGIN + 41 * DAY)
    with pytest.raises(CursorStuckError, match="earlier ones"):
        loader.load(batches)


@pytest.mark.parametrize("type_", ["delivery", "bankruptcy"])
def test_record_that_differs_in_each_answer_does_not_keep_the_run_going(type_: str) -> None:
    """Neither a rejected one nor a bankruptcy with a field that has no column."""
    answers = 0

    def answer(method: str, params: dict[str, str]) -> dict[str, Any]:
        nonlocal answers
        answers += 1
        at_ms = int(params.get("search_start_timestamp", BEGIN))
        good = [{"type": type_, "timestamp": BEGIN, "instrument_name": "a"}] if at_ms >= BEGIN else []
        odd: list[dict[str, Any]] = [{"type": type_, "timestamp": None, "answer": answers}]
        varying = [row | {"answer": answers} for row in good] if type_ == "bankruptcy" else [*good, *odd]
        return {"result": {"settlements": varying, "continuation": None}}

    loader = Loader(answer, "timestamp")
    assert loader.load(fetch_settlements(loader.client, "BTC", type_, loader.state, BEGIN + DAY)) == 1
    assert answers < 6


def test_walks_without_end_are_an_error() -> None:
    """Every answer has another row, and no continuation."""
    pager = SettlementPager(max_pages=3)
    pager.feed([300], 1, None)
    pager.feed([300], 1, None)
    with pytest.raises(CursorStuckError):
        pager.feed([300], 1, None)


@pytest.mark.parametrize("name", [{}, {"instrument_name": None}, {"instrument_name": ""}])
def test_delivery_without_an_instrument_is_rejected(name: dict[str, Any]) -> None:
    nameless = {"type": "delivery", "timestamp": BEGIN, "index_price": 1.0} | name

    def answer(method: str, params: dict[str, str]) -> dict[str, Any]:
        at_ms = int(params.get("search_start_timestamp", BEGIN + DAY))
        rows = [row for row in (delivery(0, "a"), nameless) if row["timestamp"] <= at_ms]
        return {"result": {"settlements": rows, "continuation": None}}

    loader = Loader(answer, "instrument_name")
    batches = fetch_settlements(loader.client, "BTC", "delivery", loader.state, BEGIN + DAY)
    assert loader.load(batches) == 1
    assert len(loader.rejected) == 1


def test_repeated_token_is_an_error() -> None:
    pager = SettlementPager()
    pager.feed([300], 1, "a")
    with pytest.raises(CursorStuckError, match="does not move"):
        pager.feed([200], 1, "a")


def test_tokens_without_new_rows_are_an_error() -> None:
    pager = SettlementPager()
    pager.feed([300], 1, "a")
    pager.feed([300], 0, "b")
    pager.feed([300], 0, "c")
    with pytest.raises(CursorStuckError):
        pager.feed([300], 0, "d")


def test_next_day_costs_one_request() -> None:
    rows = [delivery(day, f"I-{day}") for day in range(100)]
    exchange = SeriesExchange(Peculiarities(limit=20), settled=rows)
    loader = Loader(exchange.answer, "instrument_name")
    loader.load(
        fetch_settlements(loader.client, "BTC", "delivery", loader.state, BEGIN + 99 * DAY + 9 * HOUR)
    )
    rows.append(delivery(100, "new"))
    before = loader.requests
    batches = fetch_settlements(loader.client, "BTC", "delivery", loader.state, BEGIN + 100 * DAY + 9 * HOUR)
    assert loader.load(batches) == 1
    assert loader.requests - before == 1


def test_expired_instruments_without_a_delivery_are_gaps() -> None:
    """The feed has holes: whole expiries of options are missing in it."""
    exchange = SeriesExchange(settled=[delivery(day, f"I-{day}") for day in (0, 2)])
    loader = Loader(exchange.answer, "instrument_name")
    expired = {f"I-{day}": BEGIN + day * DAY + 8 * HOUR for day in range(3)}
    now_ms = BEGIN + 2 * DAY + 9 * HOUR
    batches = fetch_settlements(loader.client, "BTC", "delivery", loader.state, now_ms, expired=expired)
    assert loader.load(batches) == 2
    assert [(gap.first_ms, gap.missing) for gap in loader.gaps] == [(expired["I-1"], 1)]
    assert "I-1" in loader.gaps[0].detail


def test_undelivered_error_has_both_values() -> None:
    require_deliveries(BEGIN, ["a", "b"], {"a", "b", "c"})
    with pytest.raises(UndeliveredError, match="2 of 3") as error:
        require_deliveries(BEGIN, ["a", "b", "c"], {"b"})
    assert (error.value.expired, error.value.missing) == (3, ["a", "c"])


def test_bankruptcies_of_one_moment_are_all_loaded() -> None:
    """They have no instrument, so that only their content tells them apart."""
    rows = [
        {"type": "bankruptcy", "timestamp": BEGIN, "instrument_name": "", "session_bankruptcy": loss}
        for loss in (1.0, 2.0)
    ]
    loader = Loader(SeriesExchange(settled=rows).answer, "session_bankruptcy")
    batches = fetch_settlements(loader.client, "BTC", "bankruptcy", loader.state, BEGIN + DAY)
    assert loader.load(batches) == 2


@pytest.mark.parametrize(("limit", "oldest"), [(10, 40), (20, 70), (100, 350)])
def test_oldest_time_with_more_rows_than_several_pages_is_the_end(limit: int, oldest: int) -> None:
    """The request for what is older repeats its rows in pages without a new one, whose tokens advance."""
    rows = [delivery(0, f"I-{number}") for number in range(oldest)] + [delivery(1, "later")]
    exchange = SeriesExchange(Peculiarities(limit=limit), settled=rows)
    loader = Loader(exchange.answer, "instrument_name")
    batches = fetch_settlements(loader.client, "BTC", "delivery", loader.state, BEGIN + 2 * DAY)
    assert loader.load(batches) == len(rows)


def test_endless_tokens_of_a_probe_are_an_error() -> None:
    pager = SettlementPager()
    pager.feed([300], 1, None)
    assert pager.request == Latest(301)
    for number in range(3):
        pager.feed([300], 0, f"token {number}")
    with pytest.raises(CursorStuckError):
        pager.feed([300], 0, "token 3")


@pytest.mark.parametrize(
    "odd", [{"timestamp": 0}, {"timestamp": BEGIN + 400 * DAY}, {"type": "delivered"}, {"type": "Delivery"}]
)
def test_odd_settlement_is_rejected_and_moves_nothing(odd: dict[str, Any]) -> None:
    rows = [delivery(day, f"I-{day}") for day in range(30)]
    exchange = SeriesExchange(Peculiarities(limit=10), settled=rows)

    def answer(method: str, params: dict[str, str]) -> dict[str, Any]:
        result = exchange.answer(method, params)
        if "continuation" not in params:
            result["result"]["settlements"].insert(0, delivery(29, "odd") | odd)
        return result

    loader = Loader(answer, "instrument_name")
    now_ms = BEGIN + 29 * DAY + 9 * HOUR
    assert loader.load(fetch_settlements(loader.client, "BTC", "delivery", loader.state, now_ms)) == 30
    assert len(loader.rejected) == 1
    assert loader.state.proven_ms == rows[-1]["timestamp"]
    rows.append(delivery(30, "new"))
    batches = fetch_settlements(loader.client, "BTC", "delivery", loader.state, now_ms + DAY)
    assert loader.load(batches) == 1


def test_page_of_rejected_settlements_does_not_end_the_walk() -> None:
    exchange = SeriesExchange(
        Peculiarities(limit=5), settled=[delivery(day, f"I-{day}") for day in range(30)]
    )
    odd = {f"I-{day}" for day in range(5, 15)}

    def answer(method: str, params: dict[str, str]) -> dict[str, Any]:
        result = exchange.answer(method, params)
        page = result["result"]["settlements"]
        result["result"]["settlements"] = [
            row | {"type": "odd"} if row["instrument_name"] in odd else row for row in page
        ]
        return result

    loader = Loader(answer, "instrument_name")
    batches = fetch_settlements(loader.client, "BTC", "delivery", loader.state, BEGIN + 29 * DAY + 9 * HOUR)
    assert loader.load(batches) == 20
    assert len(loader.rejected) == 10
