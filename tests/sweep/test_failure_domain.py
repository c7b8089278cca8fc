"""An instrument, a page or a record that cannot be used affects nothing else, and what is missing is named."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from extract.deribit.client import DeribitClient
from extract.deribit.streams import Stream
from extract.errors import ProofError, RetriableError
from extract.sweep.ledger import SeqRange
from extract.sweep.state import Span, StreamState
from extract.sweep.window import SweepRequest
from extract.sweep.windows import WindowReader, WindowResult, sweep_windows
from tests.support.contradictory_exchange import Answer, client_of, page
from tests.support.histories import BEGIN_MS, Record, trade

FUTURES, OPTIONS = Stream("BTC", "future"), Stream("BTC", "option")
NOW_MS = BEGIN_MS + 3_600_000
NAMES = {FUTURES: "BTC-PERPETUAL", OPTIONS: "BTC-29DEC23-30000-C"}
TRADES = [trade(NAMES[FUTURES], n, n, BEGIN_MS + n * 1_000) for n in range(1, 9)] + [
    trade(NAMES[OPTIONS], n, 100 + n, BEGIN_MS + n * 1_000) for n in range(1, 9)
]
OTHER = trade("BTC-17NOV23-35000-P", 1, 200, BEGIN_MS + 4_000)
HIDDEN = (NAMES[OPTIONS], 4)


def answer_of(trades: list[Record], by_number: Answer | None = None, hidden: object = HIDDEN) -> Answer:
    """An exchange whose pages by time lack the trade `hidden`; `by_number` answers requests for trades by number."""

    def answer(method: str, params: dict[str, str]) -> dict[str, Any] | httpx.Response:
        if method == "get_time":
            return {"result": NOW_MS}
        if "start_seq" in params:
            if by_number:
                return by_number(method, params)
            name, first, last = params["instrument_name"], int(params["start_seq"]), int(params["end_seq"])
            return page(
                [t for t in trades if t["instrument_name"] == name and first <= t["trade_seq"] <= last]
            )
        kind = "option" if params["kind"] == "option" else "future"
        first, last = int(params.get("start_timestamp", 0)), int(params.get("end_timestamp", NOW_MS))
        return page(
            [
                t
                for t in trades
                if ("option" if t["instrument_name"].count("-") == 3 else "future") == kind
                and first <= t["timestamp"] <= last
                and int(t["trade_id"]) >= int(params.get("start_id", 0))
                and (t["instrument_name"], t["trade_seq"]) != hidden
            ]
        )

    return answer


def sweep(
    client: DeribitClient, states: dict[Stream, StreamState]
) -> tuple[list[tuple[str, int]], WindowResult]:
    """(loaded keys, result of the only window)."""
    window = WindowReader(
        sweep_windows(client, SweepRequest(BEGIN_MS, machine_s=lambda: NOW_MS / 1000), states)
    )
    keys = []
    for table in window.tables():
        keys += list(
            zip(
                table.column("instrument_name").to_pylist(),
                table.column("trade_seq").to_pylist(),
                strict=True,
            )
        )
    assert window.end is not None
    return keys, window.end


def keys_of(trades: list[Record]) -> list[tuple[str, int]]:
    return sorted((each["instrument_name"], each["trade_seq"]) for each in trades)


def refused(method: str, params: dict[str, str]) -> dict[str, Any]:
    return {"error": {"code": 13020, "message": "not_found"}}


def unreadable(method: str, params: dict[str, str]) -> dict[str, Any]:
    return page([OTHER])


def overloaded(method: str, params: dict[str, str]) -> httpx.Response:
    return httpx.Response(503)


def numberless(method: str, params: dict[str, str]) -> dict[str, Any]:
    return page([{"odd": 1}])


@pytest.mark.parametrize(
    ("by_number", "reason"),
    [
        (numberless, "records without a trade_seq"),
        (refused, "refuses them by number"),
        (unreadable, "sent one of BTC-17NOV23-35000-P"),
        (overloaded, "HTTP 503"),
    ],
)
def test_trade_that_cannot_be_fetched_by_number_is_reported_and_all_others_are_loaded(
    by_number: Answer, reason: str
) -> None:
    """Its stream and the other one are covered; the next run has nothing to do, because `tape gaps` lists the trade."""
    states = {FUTURES: StreamState(), OPTIONS: StreamState()}
    with client_of(answer_of(TRADES, by_number)) as client:
        loaded, end = sweep(client, states)
    assert sorted(loaded) == sorted(set(keys_of(TRADES)) - {HIDDEN})
    [missing] = end.report.unrepaired
    assert (missing.stream, missing.range) == (OPTIONS, SeqRange(HIDDEN[0], 4, 4))
    assert reason in missing.reason
    assert not end.report.set_aside
    assert not end.report.absent
    assert end.states.keys() == {"BTC future", "BTC option"}
    assert all(state["covered"] for state in end.states.values())


def test_time_of_all_streams_is_reported_as_unproven_before_their_error_is_raised() -> None:
    """The load package that records it is the only trace of a run in which nothing could be used."""
    page_of_none = page([{"odd": 1}] * 20)
    states = {FUTURES: StreamState(), OPTIONS: StreamState()}

    def answer(method: str, params: dict[str, str]) -> Any:
        return {"result": NOW_MS} if method == "get_time" else page_of_none

    with client_of(answer, page_size=20) as client:
        flow = sweep_windows(client, SweepRequest(BEGIN_MS, machine_s=lambda: NOW_MS / 1000), states)
        window = WindowReader(flow)
        assert list(window.tables()) == []
        with pytest.raises(ProofError, match="no valid time"):
            next(flow)
    assert window.end is not None
    assert (window.end.is_final, window.end.states) == (True, {})
    unproven = {stream: span for stream, span, _ in window.end.report.unproven}
    assert unproven == dict.fromkeys((FUTURES, OPTIONS), Span(BEGIN_MS, NOW_MS - 60_000))


def test_pages_before_a_failing_one_are_loaded_and_only_the_rest_is_missing() -> None:
    """Of 8 missing trades, two arrive before the exchange fails for this instrument."""
    trades = [trade("BTC-PERPETUAL", n, n, BEGIN_MS + n * 1_000) for n in range(1, 9)]
    answers = iter([page(trades[1:3])])
    states = {FUTURES: StreamState()}

    def by_number(method: str, params: dict[str, str]) -> Any:
        return next(answers, None) or httpx.Response(503)

    answer = answer_of([trades[0], trades[7]], by_number, hidden=None)
    with client_of(answer) as client:
        loaded, end = sweep(client, states)
    assert sorted(loaded) == [("BTC-PERPETUAL", n) for n in (1, 2, 3, 8)]
    assert [each.range for each in end.report.unrepaired] == [SeqRange("BTC-PERPETUAL", 4, 7)]


def test_repairs_end_after_a_few_instruments_without_an_answer() -> None:
    """An endpoint that fails for each of 50 instruments is not retried to the end for each of them."""
    names = [f"BTC-29DEC23-{strike}-C" for strike in range(10_000, 60_000, 1_000)]
    trades = [trade(name, seq, i * 2 + seq, BEGIN_MS + seq) for i, name in enumerate(names) for seq in (1, 3)]
    by_number = []

    def fail(method: str, params: dict[str, str]) -> httpx.Response:
        by_number.append(params["instrument_name"])
        return httpx.Response(503)

    states = {OPTIONS: StreamState()}
    with client_of(answer_of(trades, fail)) as client:
        loaded, end = sweep(client, states)
    assert len(loaded) == 100
    assert sorted(each.range for each in end.report.unrepaired) == [SeqRange(name, 2, 2) for name in names]
    assert len(set(by_number)) < 10


@pytest.mark.parametrize("in_flight", [1, 4])
def test_trades_above_the_limit_of_repairs_are_reported_and_all_others_are_loaded(
    monkeypatch: pytest.MonkeyPatch, in_flight: int
) -> None:
    """The stream is covered: `tape repair`, which has no limit, fetches the rest."""
    monkeypatch.setattr("extract.sweep.window.MAX_REPAIRED", 10)
    name = NAMES[FUTURES]
    trades = [trade(name, n, n, BEGIN_MS + n * 1_000) for n in range(1, 101)]
    swept = answer_of([trades[0], trades[-1]], hidden=None)

    def answer(method: str, params: dict[str, str]) -> Any:
        if "start_seq" not in params:
            return swept(method, params)
        return page(trades[int(params["start_seq"]) - 1 :][: int(params["count"])])

    states = {FUTURES: StreamState()}
    request = SweepRequest(BEGIN_MS, machine_s=lambda: NOW_MS / 1000, in_flight=in_flight)
    with client_of(answer, page_size=3) as client:
        window = WindowReader(sweep_windows(client, request, states))
        loaded = [seq for table in window.tables() for seq in table.column("trade_seq").to_pylist()]
    assert window.end is not None
    report = window.end.report
    assert not report.set_aside
    assert 12 <= len(loaded) < 40
    missing = [seq for each in report.unrepaired for seq in range(each.range.first, each.range.last + 1)]
    assert sorted([*loaded, *missing]) == [*range(1, 101)]
    assert window.end.states["BTC future"]["covered"]


def test_exchange_that_answers_nothing_during_repairs_ends_the_window() -> None:
    """No trade becomes missing because the network failed: the next run sweeps the window again."""
    is_down = False

    def by_number(method: str, params: dict[str, str]) -> httpx.Response:
        nonlocal is_down
        is_down = True
        return httpx.Response(503)

    honest = answer_of(TRADES, by_number)

    def answer(method: str, params: dict[str, str]) -> dict[str, Any] | httpx.Response:
        return httpx.Response(503) if is_down else honest(method, params)

    states = {OPTIONS: StreamState()}
    with client_of(answer) as client, pytest.raises(RetriableError):
        sweep(client, states)
    assert states[OPTIONS].covered == []


@pytest.mark.parametrize(
    "stray",
    [
        trade("BTC-PERPETUAL", 99, 999, 5),
        trade("BTC-PERPETUAL", 99, 999, 9_999_999_999_999, odd={"a": [1]}),
        trade("ETH-PERPETUAL", 3, 999, BEGIN_MS + 2_500),
    ],
    ids=["time long ago", "time in the future", "another currency"],
)
def test_trade_that_was_not_requested_is_rejected_and_all_others_are_loaded(stray: Record) -> None:
    """One such record in every page does not stop a stream, and does not make trades up to its number missing."""
    honest = answer_of(TRADES, hidden=None)

    def answer(method: str, params: dict[str, str]) -> Any:
        envelope = honest(method, params)
        if "start_timestamp" in params and params["kind"] == "future":
            envelope["result"]["trades"].append(stray)
        return envelope

    states = {FUTURES: StreamState(), OPTIONS: StreamState()}
    with client_of(answer) as client:
        loaded, end = sweep(client, states)
    assert sorted(loaded) == keys_of(TRADES)
    assert {json.loads(bad.raw)["trade_seq"] for _, bad in end.report.rejected} == {stray["trade_seq"]}
    assert json.loads(end.report.rejected[0][1].raw) == stray
    assert (end.report.absent, end.report.unrepaired, end.report.set_aside) == ([], [], {})


def test_trade_ids_without_a_number_do_not_stop_a_moment_with_more_trades_than_a_page() -> None:
    """The other ids of the page show where to continue; the trade with the odd id is loaded as well."""
    trades = [trade("BTC-PERPETUAL", n, n, BEGIN_MS + 500) for n in range(1, 60)]
    trades[3]["trade_id"] = "odd"

    def answer(method: str, params: dict[str, str]) -> Any:
        if method == "get_time":
            return {"result": NOW_MS}
        first, last = int(params.get("start_timestamp", 0)), int(params.get("end_timestamp", NOW_MS))
        start = int(params.get("start_id", 0))
        wanted = [
            t
            for t in trades
            if first <= t["timestamp"] <= last
            and (start == 0 or (t["trade_id"] != "odd" and int(t["trade_id"]) >= start))
        ]
        return page(wanted[: int(params["count"])])

    states = {FUTURES: StreamState()}
    with client_of(answer, page_size=20) as client:
        loaded, end = sweep(client, states)
    assert sorted(loaded) == keys_of(trades)
    assert not end.report.set_aside


def test_exchange_that_ignores_the_kind_loads_no_trade_twice() -> None:
    """Trades of one instrument in two kinds are a contradiction, also if it is not listed: both streams are set aside."""
    answer = answer_of(TRADES, hidden=None)

    def ignoring(method: str, params: dict[str, str]) -> Any:
        if "kind" not in params:
            return answer(method, params)
        pages = [answer(method, params | {"kind": kind})["result"]["trades"] for kind in ("future", "option")]  # type: ignore[index]
        return page(sorted(pages[0] + pages[1], key=lambda each: each["timestamp"]))

    states = {FUTURES: StreamState(), OPTIONS: StreamState()}
    with client_of(ignoring) as client:
        request = SweepRequest(BEGIN_MS, machine_s=lambda: NOW_MS / 1000)
        window = WindowReader(sweep_windows(client, request, states))
        assert not [table for table in window.tables() if table.num_rows]
    assert window.report
    assert {*window.report.set_aside} == {FUTURES, OPTIONS}
    assert "BTC option were requested, and the exchange sent those of" in str(
        window.report.set_aside[OPTIONS]
    )


def test_stray_trade_of_another_listed_kind_is_rejected() -> None:
    """One does not make the other trades of the stream unusable."""
    answer, stray = answer_of(TRADES, hidden=None), TRADES[0]

    def leaking(method: str, params: dict[str, str]) -> Any:
        result = answer(method, params)
        if params.get("kind") == "option":
            result["result"]["trades"].append(stray)  # type: ignore[index]
        return result

    with client_of(leaking) as client:
        request = SweepRequest(BEGIN_MS, machine_s=lambda: NOW_MS / 1000, kind_of={NAMES[FUTURES]: "future"})
        window = WindowReader(sweep_windows(client, request, {OPTIONS: StreamState()}))
        names = {name for table in window.tables() for name in table.column("instrument_name").to_pylist()}
    assert window.report
    assert names == {NAMES[OPTIONS]}
    assert [json.loads(bad.raw) for _, bad in window.report.rejected] == [stray]


def test_exchange_that_ignores_the_kind_sets_one_selected_kind_aside() -> None:
    """The list of instruments shows it."""
    answer = answer_of(TRADES, hidden=None)

    def ignoring(method: str, params: dict[str, str]) -> Any:
        return answer(method, params | ({"kind": "option"} if "kind" in params else {}))

    with client_of(ignoring) as client:
        request = SweepRequest(BEGIN_MS, machine_s=lambda: NOW_MS / 1000, kind_of={NAMES[OPTIONS]: "option"})
        window = WindowReader(sweep_windows(client, request, {FUTURES: StreamState()}))
        assert not [table for table in window.tables() if table.num_rows]
    assert window.report
    assert "which it lists as option" in str(window.report.set_aside[FUTURES])
