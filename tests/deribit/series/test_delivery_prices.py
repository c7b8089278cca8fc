"""Delivery prices: offsets that shift or do not move, and days without a price."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import pytest

from extract.deribit.series.delivery_prices import (
    DeliveryCountError,
    DeliveryPager,
    Page,
    fetch_delivery_prices,
    require_total,
    time_of_day,
)
from extract.deribit.series.grid import CursorStuckError
from tests.support.series_exchange import HOUR, Loader, Peculiarities, SeriesExchange

FIRST = date(2020, 1, 1)


def days(count: int) -> list[date]:
    return [FIRST + timedelta(number) for number in range(count)]


def exchange_of(count: int, limit: int = 1_000) -> SeriesExchange:
    prices = {day.isoformat(): 100.0 + number for number, day in enumerate(days(count))}
    return SeriesExchange(Peculiarities(limit=limit), prices=prices)


def run(loader: Loader, day: date, **options: Any) -> int:
    now_ms = time_of_day(day) + HOUR
    return loader.load(fetch_delivery_prices(loader.client, "btc_usd", loader.state, now_ms, **options))


def test_next_day_costs_one_request() -> None:
    exchange = exchange_of(2_500)
    loader = Loader(exchange.answer, "date")
    assert run(loader, days(2_500)[-1]) == 2_500
    before = loader.requests
    exchange.prices[(FIRST + timedelta(2_500)).isoformat()] = 7.0
    assert run(loader, FIRST + timedelta(2_500)) == 1
    assert loader.requests - before == 1


def test_price_of_an_earlier_day_that_appears_later_is_loaded() -> None:
    """The number of rows shows that not only the newest one is new."""
    exchange = exchange_of(2_500)
    late = exchange.prices.pop("2021-02-03")
    loader = Loader(exchange.answer, "date")
    run(loader, days(2_500)[-1])
    exchange.prices |= {"2021-02-03": late, (FIRST + timedelta(2_500)).isoformat(): 7.0}
    run(loader, FIRST + timedelta(2_500))
    assert {day for (day,) in loader.rows} == set(exchange.prices)


def test_first_answer_that_is_empty_is_not_believed() -> None:
    """An index may have no price at all, but one answer does not prove it; later it is requested again once a day."""
    exchange, answers = exchange_of(20), 0

    def answer(method: str, params: dict[str, str]) -> dict[str, Any]:
        nonlocal answers
        answers += 1
        empty = {"result": {"records_total": 0, "data": []}}
        return empty if answers in (1, 3, 4) else exchange.answer(method, params)

    loader = Loader(answer, "date")
    assert run(loader, days(20)[-1]) == 20
    other = Loader(answer, "date")
    answers = 2
    assert run(other, days(20)[-1]) == 0
    assert answers == 4
    assert run(other, days(21)[-1]) == 20


def test_expiry_day_without_a_price_is_a_gap_until_it_has_one() -> None:
    exchange = exchange_of(20)
    lost = exchange.prices.pop("2020-01-05")
    loader = Loader(exchange.answer, "date")
    run(loader, days(20)[-1], expiry_days=days(30))
    assert [(gap.first_ms, gap.missing) for gap in loader.gaps] == [(time_of_day(date(2020, 1, 5)), 1)]
    exchange.prices["2020-01-05"] = lost
    run(loader, days(21)[-1])
    assert loader.gaps == []


def overstated(exchange: SeriesExchange, rows: int) -> Callable[[str, dict[str, str]], dict[str, Any]]:
    """The exchange's answers, with a `records_total` of so many rows more than it has."""

    def answer(method: str, params: dict[str, str]) -> dict[str, Any]:
        result: dict[str, Any] = exchange.answer(method, params)
        result["result"]["records_total"] += rows
        return result

    return answer


def test_rows_that_only_the_total_counts_are_a_gap() -> None:
    exchange = exchange_of(20)
    loader = Loader(overstated(exchange, 3), "date")
    assert run(loader, days(20)[-1]) == 20
    assert [gap.missing for gap in loader.gaps] == [3]
    assert "23" in loader.gaps[0].detail
    with pytest.raises(DeliveryCountError, match="counts 23"):
        require_total("btc_usd", 20, 23)


def test_total_that_counts_one_page_only_ends_nothing() -> None:
    exchange = exchange_of(2_500, limit=744)

    def answer(method: str, params: dict[str, str]) -> dict[str, Any]:
        result: dict[str, Any] = exchange.answer(method, params)
        result["result"]["records_total"] = len(result["result"]["data"])
        return result

    loader = Loader(answer, "date")
    assert run(loader, days(2_500)[-1]) == 2_500


def test_price_of_another_index_is_rejected() -> None:
    exchange = exchange_of(20)

    def answer(method: str, params: dict[str, str]) -> dict[str, Any]:
        result: dict[str, Any] = exchange.answer(method, params)
        result["result"]["data"] = [
            row | ({"index_name": "eth_usd"} if row["date"] == "2020-01-05" else {})
            for row in result["result"]["data"]
        ]
        return result

    loader = Loader(answer, "date")
    assert run(loader, days(20)[-1]) == 19
    assert len(loader.rejected) == 1


def test_offset_that_is_ignored_is_an_error() -> None:
    exchange = exchange_of(50, limit=10)
    answer = exchange.answer
    loader = Loader(lambda method, params: answer(method, {**params, "offset": "0"}), "date")
    with pytest.raises(CursorStuckError, match="offset"):
        run(loader, days(50)[-1])


def test_rows_that_a_removal_skipped_are_requested_again() -> None:
    """Two rows are removed after the first page, so that row c is at an offset that was read already."""
    pager = DeliveryPager()
    pager.feed(["f", "e", "d"], 6)
    assert pager.request == Page(2)
    pager.feed(["b", "a"], 4)
    assert pager.request == Page(3)
    pager.feed(["a"], 4)
    pager.feed(["d", "c", "b"], 4)  # the first page again
    assert pager.request == Page(0)
    pager.feed(["d", "c", "b"], 4)
    pager.feed(["b", "a"], 4)
    pager.feed(["d", "c", "b"], 4)
    assert pager.request is None
    assert "c" in pager.rows


def test_price_of_a_day_that_cannot_have_one_is_rejected_and_moves_nothing() -> None:
    exchange = exchange_of(20)
    exchange.prices |= {"2199-01-01": 1.0, "1970-01-01": 2.0}
    loader = Loader(exchange.answer, "date")
    assert run(loader, days(20)[-1]) == 20
    assert len(loader.rejected) == 2
    assert loader.state.proven_ms == time_of_day(days(20)[-1])
    exchange.prices[days(21)[-1].isoformat()] = 7.0
    assert run(loader, days(21)[-1]) == 1


@pytest.mark.parametrize("count", [1, 20])
def test_total_above_the_returned_rows_loads_no_row_again(count: int) -> None:
    """The gap has no known day, so that none of the loaded rows counts as missing."""
    exchange = exchange_of(count)
    loader = Loader(overstated(exchange, 1), "date")
    assert run(loader, days(count)[-1]) == count
    for number in range(count, count + 3):
        day = FIRST + timedelta(number)
        exchange.prices[day.isoformat()] = 7.0
        assert run(loader, day) == 1
        assert loader.state.loaded_rows == number + 1
        assert [gap.missing for gap in loader.gaps] == [1]
