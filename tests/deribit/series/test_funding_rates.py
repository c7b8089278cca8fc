"""Funding rates: hours without a row are named, and sums are compared with the exchange's own."""

from __future__ import annotations

import pytest

from extract.deribit.series.funding_rates import (
    FundingSumError,
    fetch_funding_rates,
    require_equal_sums,
    sum_spans,
)
from extract.deribit.series.grid import Span
from tests.support.series_exchange import (
    BEGIN,
    DAY,
    HOUR,
    MINUTE,
    NAME,
    Loader,
    Peculiarities,
    SeriesExchange,
)


def exchange_of(hours: int, **ways: object) -> SeriesExchange:
    funding = {BEGIN + hour * HOUR: (hour % 7 - 3) * 1e-6 for hour in range(hours)}
    return SeriesExchange(Peculiarities(**ways), funding=funding)


def run(
    loader: Loader, now_ms: int, since_ms: int = BEGIN - 5 * 365 * DAY, until_ms: int | None = None
) -> int:
    return loader.load(
        fetch_funding_rates(loader.client, NAME, loader.state, now_ms, since_ms=since_ms, until_ms=until_ms)
    )


def test_five_empty_years_before_the_history_cost_a_request_for_each_window() -> None:
    exchange = exchange_of(1_000)
    loader = Loader(exchange.answer, "timestamp")
    assert run(loader, BEGIN + 1_000 * HOUR) == 1_000
    assert loader.requests < 5 * 365 / 28 + 15


def test_history_before_a_hole_is_loaded_if_answers_are_limited_by_time() -> None:
    """An answer has the last 744 hours of the requested time, of which all can be in the hole."""
    exchange = exchange_of(200 * 24)
    lost = [BEGIN + hour * HOUR for hour in range(110 * 24, 190 * 24)]
    for at_ms in lost:
        del exchange.funding[at_ms]

    def answer(method: str, params: dict[str, str]) -> dict[str, object]:
        start_ms = max(int(params["start_timestamp"]), int(params["end_timestamp"]) - 744 * HOUR)
        is_history = method == "get_funding_rate_history"
        return exchange.answer(method, params | ({"start_timestamp": str(start_ms)} if is_history else {}))

    loader = Loader(answer, "timestamp")
    run(loader, BEGIN + 200 * 24 * HOUR, since_ms=BEGIN - DAY)
    assert {at_ms for (at_ms,) in loader.rows} == set(exchange.funding)
    assert sum(gap.missing for gap in loader.gaps) == len(lost)


def test_next_hour_costs_one_request() -> None:
    exchange = exchange_of(1_000)
    loader = Loader(exchange.answer, "timestamp")
    run(loader, BEGIN + 999 * HOUR + HOUR // 2)
    exchange.funding[BEGIN + 1_000 * HOUR] = 1e-6
    before = loader.requests
    assert run(loader, BEGIN + 1_000 * HOUR + HOUR // 2) == 1
    assert loader.requests - before == 1


def test_first_rates_of_a_new_perpetual_are_loaded_within_the_hour() -> None:
    """It is listed minutes before its first rate; one that is listed for long and has no rate costs a request a day."""
    exchange = exchange_of(0)
    loader = Loader(exchange.answer, "timestamp")
    assert run(loader, BEGIN - 10 * MINUTE, since_ms=BEGIN - 20 * MINUTE) == 0
    exchange.funding[BEGIN] = 1e-6
    before = loader.requests
    assert run(loader, BEGIN + MINUTE - 1, since_ms=BEGIN - 20 * MINUTE) == 0
    assert loader.requests == before
    assert run(loader, BEGIN + MINUTE, since_ms=BEGIN - 20 * MINUTE) == 1

    old = Loader(exchange_of(0).answer, "timestamp")
    assert run(old, BEGIN, since_ms=BEGIN - 90 * DAY) == 0
    before = old.requests
    assert run(old, BEGIN + DAY - 1, since_ms=BEGIN - 90 * DAY) == 0
    assert old.requests == before


def test_hole_is_requested_again_once_a_day_and_healed() -> None:
    exchange = exchange_of(2_000)
    lost = {at: exchange.funding.pop(at) for at in (BEGIN + 500 * HOUR, BEGIN + 1_990 * HOUR)}
    loader = Loader(exchange.answer, "timestamp")
    now_ms = BEGIN + 2_000 * HOUR
    run(loader, now_ms)
    assert [gap.first_ms for gap in loader.gaps] == sorted(lost)
    exchange.funding |= lost
    assert run(loader, now_ms + 2 * HOUR) == 1  # the recent hole is within what is read anyway
    assert run(loader, now_ms + DAY) == 1
    assert loader.gaps == []
    assert {at for (at,) in loader.rows} == set(exchange.funding)


def test_history_that_was_empty_in_the_first_run_is_loaded_whole_later() -> None:
    """Until then, each day costs two requests."""
    exchange = exchange_of(2_000)
    is_empty = True

    def answer(method: str, params: dict[str, str]) -> dict[str, object]:
        return {"result": []} if is_empty else exchange.answer(method, params)

    loader = Loader(answer, "timestamp")
    now_ms = BEGIN + 2_000 * HOUR
    assert run(loader, now_ms) == 0
    before = loader.requests
    assert run(loader, now_ms + HOUR) == 0
    assert run(loader, now_ms + DAY) == 0
    assert loader.requests - before == 2
    is_empty = False
    assert run(loader, now_ms + 2 * DAY) == 2_000


def test_expired_perpetual_is_not_requested_any_more() -> None:
    exchange = exchange_of(100)
    loader = Loader(exchange.answer, "timestamp")
    expiry_ms = BEGIN + 99 * HOUR + 5 * 60_000
    run(loader, BEGIN + 500 * HOUR, until_ms=expiry_ms)
    before = loader.requests
    assert run(loader, BEGIN + 5_000 * HOUR, until_ms=expiry_ms) == 0
    assert loader.requests == before


def test_sum_that_differs_is_reported_after_reading_again() -> None:
    """The exchange's sum contains another value than its rows."""
    exchange = exchange_of(300)
    answer = exchange.answer

    def contradict(method: str, params: dict[str, str]) -> dict[str, object]:
        result = answer(method, params)
        return {"result": 0.5} if method == "get_funding_rate_value" else result

    loader = Loader(contradict, "timestamp")
    assert run(loader, BEGIN + 300 * HOUR, since_ms=BEGIN) == 300
    assert len(loader.disagreements) == 1
    assert "adds up to" in loader.disagreements[0]
    assert "0.5" in loader.disagreements[0]


def test_sum_that_differs_is_reported_by_each_run_until_it_agrees() -> None:
    exchange = exchange_of(300)
    surplus = 0.5

    def answer(method: str, params: dict[str, str]) -> dict[str, object]:
        result = exchange.answer(method, params)
        return {"result": result["result"] + surplus} if method == "get_funding_rate_value" else result

    loader = Loader(answer, "timestamp")

    def disagreements_after(hours: int) -> int:
        exchange.funding |= {BEGIN + hour * HOUR: 1e-6 for hour in range(300, hours)}
        before = len(loader.disagreements)
        assert run(loader, BEGIN + hours * HOUR, since_ms=BEGIN) > 0
        return len(loader.disagreements) - before

    assert [disagreements_after(hours) for hours in (300, 301, 325)] == [1, 1, 1]
    surplus = 0.0
    assert [disagreements_after(hours) for hours in (326, 350)] == [1, 0]


def test_more_holes_than_the_state_has_are_named_as_one() -> None:
    """What the exchange has of them later is loaded when everything is read again."""
    exchange = exchange_of(3_001)
    lost = {BEGIN + hour * HOUR: exchange.funding.pop(BEGIN + hour * HOUR) for hour in range(1, 3_000, 2)}
    loader = Loader(exchange.answer, "timestamp")
    now_ms = BEGIN + 3_000 * HOUR + HOUR // 2

    def run(now_ms: int, *, again: bool = False) -> int:
        batches = fetch_funding_rates(
            loader.client, NAME, loader.state, now_ms, since_ms=BEGIN - DAY, again=again
        )
        return loader.load(batches)

    run(now_ms)
    assert sum(gap.missing for gap in loader.gaps) == 1_500
    assert run(now_ms + DAY) == 0
    assert sum(gap.missing for gap in loader.gaps) == 1_500
    exchange.funding |= {at_ms: lost.pop(at_ms) for at_ms in list(lost)[:10]}
    assert run(now_ms + 2 * DAY, again=True) > 10
    assert sum(gap.missing for gap in loader.gaps) == 1_490
    assert {at_ms for (at_ms,) in loader.rows} == set(exchange.funding)


def test_value_that_was_wrong_once_is_corrected_by_the_sum() -> None:
    """A rate that one answer distorts is read again because the sum differs."""
    exchange = exchange_of(300)
    distorted = BEGIN + 100 * HOUR
    answers = 0

    def distort(method: str, params: dict[str, str]) -> dict[str, object]:
        nonlocal answers
        result = exchange.answer(method, params)
        if method == "get_funding_rate_history" and result["result"]:
            answers += 1
            if answers == 1:
                for row in result["result"]:
                    row["interest_1h"] += 0.01 * (row["timestamp"] == distorted)
        return result

    loader = Loader(distort, "timestamp")
    run(loader, BEGIN + 300 * HOUR, since_ms=BEGIN)
    assert loader.disagreements == []
    assert loader.rows[(distorted,)]["interest_1h"] == exchange.funding[distorted]


def test_sum_error_has_both_values() -> None:
    rows = [{"timestamp": BEGIN + hour * HOUR, "interest_1h": 1e-5} for hour in range(25)]
    span = Span(BEGIN, BEGIN + 24 * HOUR)
    require_equal_sums(NAME, span, rows, 24e-5)
    require_equal_sums(NAME, span, rows, 25e-5)
    with pytest.raises(FundingSumError) as error:
        require_equal_sums(NAME, span, rows, 20e-5)
    assert error.value.loaded == pytest.approx(24e-5)
    assert error.value.exchange == 20e-5


def test_spans_of_sums_leave_out_holes() -> None:
    hole = BEGIN + 100 * HOUR, BEGIN + 101 * HOUR
    spans = sum_spans(BEGIN, BEGIN + 240 * HOUR, [hole])
    assert spans == [
        Span(BEGIN, BEGIN + 99 * HOUR),
        Span(BEGIN + 102 * HOUR, BEGIN + 240 * HOUR),
    ]


@pytest.mark.parametrize("odd_ms", [0, BEGIN - 2 * DAY, BEGIN + 400 * DAY])
def test_rate_at_an_impossible_time_is_rejected_and_moves_nothing(odd_ms: int) -> None:
    """Neither a gap of 50 years nor a proven time in the future: the next hours are loaded."""
    exchange = exchange_of(100)

    def answer(method: str, params: dict[str, str]) -> dict[str, object]:
        result = exchange.answer(method, params)
        if method == "get_funding_rate_history":
            result["result"].append({"timestamp": odd_ms, "interest_1h": 0.5})
        return result

    loader = Loader(answer, "timestamp")
    assert run(loader, BEGIN + 99 * HOUR + HOUR // 2, since_ms=BEGIN) == 100
    assert len(loader.rejected) == 1
    assert str(odd_ms) in loader.rejected[0]
    assert (loader.state.first_ms, loader.state.proven_ms) == (BEGIN, BEGIN + 99 * HOUR)
    assert loader.gaps == []
    exchange.funding[BEGIN + 100 * HOUR] = 1e-6
    assert run(loader, BEGIN + 100 * HOUR + HOUR // 2, since_ms=BEGIN) == 1


def test_rate_of_another_perpetual_is_rejected() -> None:
    exchange = exchange_of(100)

    def answer(method: str, params: dict[str, str]) -> dict[str, object]:
        result = exchange.answer(method, params)
        if method == "get_funding_rate_history":
            for row in result["result"]:
                row["instrument_name"] = "ETH-PERPETUAL" if row["timestamp"] == BEGIN + 50 * HOUR else NAME
        return result

    loader = Loader(answer, "timestamp")
    assert run(loader, BEGIN + 99 * HOUR + HOUR // 2, since_ms=BEGIN) == 99
    assert [gap.first_ms for gap in loader.gaps] == [BEGIN + 50 * HOUR]
    assert len(loader.rejected) == 1


def test_sum_that_the_exchange_does_not_answer_is_a_disagreement_and_compared_a_day_later() -> None:
    """The rates themselves are loaded."""
    exchange = exchange_of(300)
    is_refused = True

    def answer(method: str, params: dict[str, str]) -> dict[str, object]:
        if is_refused and method == "get_funding_rate_value":
            return {"error": {"code": -32601, "message": "Method not found"}}
        return exchange.answer(method, params)

    loader = Loader(answer, "timestamp")
    assert run(loader, BEGIN + 300 * HOUR, since_ms=BEGIN) == 300
    assert len(loader.disagreements) == 1
    assert "could not be compared" in loader.disagreements[0]
    is_refused = False
    exchange.funding |= {BEGIN + hour * HOUR: 1e-6 for hour in range(300, 325)}
    assert run(loader, BEGIN + 325 * HOUR, since_ms=BEGIN) == 25
    assert len(loader.disagreements) == 1
    assert exchange.requests["get_funding_rate_value"] == 1
    assert loader.state.compared_ms == BEGIN + 312 * HOUR
