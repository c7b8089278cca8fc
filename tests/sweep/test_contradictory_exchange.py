"""Against a contradictory exchange every loop ends, with an error that names the contradiction."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from extract.deribit.client import DeribitClient
from extract.deribit.streams import Stream
from extract.errors import CannotTellError, ProofError, RetriableError, TapeError
from extract.sweep.fetch_slice import MAX_PAGES, sweep_slice
from extract.sweep.ledger import SeqRange
from extract.sweep.repair import RepairQueue, RepairResult, repairs
from extract.sweep.slices import Slice
from extract.sweep.state import Span, StreamState
from extract.sweep.stream_window import StreamSweep
from extract.sweep.time_pager import CursorStuckError, OutsideRangeError, UnreadablePageError
from extract.sweep.window import SweepRequest, WindowReport, sweep_window
from tests.support.contradictory_exchange import client_of, page
from tests.support.histories import BEGIN_MS, trade

FUTURES = Stream("BTC", "future")
HOUR_MS = 3_600_000
SIZE = 20
FULL = [trade("BTC-PERPETUAL", n, n, BEGIN_MS + n * 1_000) for n in range(1, SIZE + 1)]
CROWD = [trade("BTC-PERPETUAL", n, n, BEGIN_MS + 500) for n in range(1, SIZE + 1)]


def always(trades: list[dict[str, Any]]) -> DeribitClient:
    return client_of(lambda method, params: page(trades, has_more_spans=True), page_size=SIZE)


@pytest.mark.parametrize(
    ("trades", "error", "names"),
    [
        (FULL, OutsideRangeError, "another time"),
        ([each | {"timestamp": 5} for each in FULL], OutsideRangeError, "another time"),
        (CROWD, CursorStuckError, f"Trade {1_000_000 + SIZE}"),
        ([each | {"trade_id": "odd"} for each in CROWD], UnreadablePageError, "'odd'"),
        ([{"odd": 1}] * SIZE, UnreadablePageError, "has no valid time"),
        (
            [each | {"instrument_name": "ETH-PERPETUAL"} for each in CROWD[:3]],
            OutsideRangeError,
            "ETH-PERPETUAL",
        ),
    ],
    ids=["the same page", "rows of another time", "one moment", "odd ids", "no records", "another currency"],
)
@pytest.mark.parametrize("is_probe", [True, False])
def test_slice_from_a_contradictory_exchange_is_an_error(
    trades: list[dict[str, Any]], error: type[ProofError], names: str, is_probe: bool
) -> None:
    """The same full page again and again, or trades that were not requested."""

    def sweep(client: DeribitClient) -> None:
        part = Slice(BEGIN_MS, BEGIN_MS + HOUR_MS, is_probe)
        while part.start_ms <= part.end_ms:
            done = sweep_slice(client, client.history, FUTURES, part)
            part = Slice(done.end_ms + 1, part.end_ms, is_probe)

    with always(trades) as client, pytest.raises(error, match=names):
        sweep(client)


def repair_all(client: DeribitClient, missing: list[SeqRange]) -> list[RepairResult]:
    queue = RepairQueue((None, each) for each in repairs(client, missing))
    return [result for _, result in queue.run(in_flight=1, cancel=client.cancel)]


@pytest.mark.parametrize(
    ("trades", "names"),
    [
        (FULL, "full page of others"),
        ([FULL[0] | {"instrument_name": "ETH-PERPETUAL"}], "one of ETH-PERPETUAL"),
    ],
)
def test_repair_from_a_contradictory_exchange_is_an_error(trades: list[dict[str, Any]], names: str) -> None:
    """Other trade_seq, or another instrument: such an answer makes no range absent."""
    with always(trades) as client, pytest.raises(OutsideRangeError, match=names):
        repair_all(client, [SeqRange("BTC-PERPETUAL", 100, 200)])


def window(client: DeribitClient, now_ms: int, since_ms: int) -> tuple[WindowReport, StreamState, int]:
    state, report = StreamState(), WindowReport()
    [span] = state.wanted(since_ms, now_ms)
    sweep = StreamSweep(client, FUTURES, state, span, now_ms, has_more_spans=False)
    tables = list(sweep_window(client, [sweep], SweepRequest(in_flight=2, max_trades=10_000), report))
    return report, state, sum(table.num_rows for table in tables)


def honest(trades: list[dict[str, Any]], **envelope: Any) -> Callable[[str, dict[str, str]], Any]:
    """An exchange of a few trades, by time and by seq."""

    def answer(method: str, params: dict[str, str]) -> Any:
        if "start_seq" in params:
            first, last = int(params["start_seq"]), int(params["end_seq"])
            return page([each for each in trades if first <= each["trade_seq"] <= last], **envelope)
        first, last = int(params["start_timestamp"]), int(params["end_timestamp"])
        return page([each for each in trades if first <= each["timestamp"] <= last], **envelope)

    return answer


def test_rejected_record_is_neither_absent_nor_requested_again() -> None:
    """It exists, although its types do not fit: its trade_seq is not missing."""
    trades = [FULL[0], FULL[1] | {"price": {}}, FULL[2]]
    with client_of(honest(trades)) as client:
        report, _, rows = window(client, BEGIN_MS + HOUR_MS, BEGIN_MS)
    assert rows == 2
    assert report.absent == []
    assert len(report.rejected) == 1


def test_range_is_not_absent_if_a_rejected_record_has_no_seq() -> None:
    """The rejected record may be the missing trade."""
    trades = [FULL[0], FULL[1] | {"trade_seq": {}}, FULL[2]]

    def answer(method: str, params: dict[str, str]) -> Any:
        if "start_seq" in params:
            return page([trades[1]])
        return honest([FULL[0], FULL[2]])(method, params)

    with client_of(answer) as client:
        report, _, _ = window(client, BEGIN_MS + HOUR_MS, BEGIN_MS)
    assert report.absent == []
    assert report.rejected
    assert [each.range for each in report.unrepaired] == [SeqRange("BTC-PERPETUAL", 2, 2)]


def test_range_is_not_absent_after_one_answer_with_a_rejected_record_without_seq() -> None:
    """Later answers without that record do not prove that it was another trade."""
    pages = iter([page([FULL[1] | {"trade_seq": {}}])])
    errors: list[TapeError] = []
    with client_of(lambda method, params: next(pages, page([]))) as client:
        queue = RepairQueue(
            ((None, each) for each in repairs(client, [SeqRange("BTC-PERPETUAL", 2, 2)])),
            lambda _, repair, error: errors.append(error),
        )
        results = [result for _, result in queue.run(in_flight=1, cancel=client.cancel)]
    assert [len(result.rejected) for result in results if result.rejected] == [1]
    assert [each for result in results for each in result.absent] == []
    [error] = errors
    assert isinstance(error, ProofError)
    assert "without a trade_seq instead of trades 2–2 of BTC-PERPETUAL" in str(error)


def test_missing_trade_before_an_unsettled_trade_is_not_absent_yet() -> None:
    """It may only be late; the next run checks again, all the missing ones of an instrument."""
    trades = [FULL[0], FULL[2], FULL[4]]
    with client_of(honest(trades)) as client:
        report, state, rows = window(client, FULL[4]["timestamp"] + 5_000, BEGIN_MS - HOUR_MS)
        assert (rows, report.absent) == (3, [])
        now_ms = FULL[4]["timestamp"] + HOUR_MS
        sweep = StreamSweep(
            client, FUTURES, state, state.wanted(None, now_ms)[0], now_ms, has_more_spans=False
        )
        report = WindowReport()
        assert not list(sweep_window(client, [sweep], SweepRequest(in_flight=1, max_trades=9), report))
        assert [each.range for each in report.absent] == [SeqRange("BTC-PERPETUAL", n, n) for n in (2, 4)]


def test_restated_trades_are_new_versions_and_counted() -> None:
    """A trade with other content is loaded again; one with the same content is not."""
    now_ms = FULL[2]["timestamp"] + 5_000
    with client_of(honest(FULL[:3])) as client:
        _, state, _ = window(client, now_ms, BEGIN_MS)
    with client_of(honest([FULL[0], FULL[1] | {"price": 1.5}, FULL[2]])) as client:
        sweep = StreamSweep(
            client, FUTURES, state, state.wanted(None, now_ms)[0], now_ms, has_more_spans=False
        )
        report = WindowReport()
        [table] = sweep_window(client, [sweep], SweepRequest(in_flight=1, max_trades=9), report)
    assert table.column("price").to_pylist() == [1.5]
    assert (report.restated, report.known, report.trades) == (1, 2, 1)


def test_live_host_that_lacks_loaded_trades_proves_nothing() -> None:
    """Its empty pages would also hide the one new trade of a quiet option; a later turn loads it."""
    options = Stream("BTC", "option")
    once = trade("BTC-29DEC23-30000-C", 1, 99, BEGIN_MS + 40_000)
    is_empty = False

    def answer(method: str, params: dict[str, str]) -> Any:
        trades = FULL if params.get("kind") == "future" else [once]
        return honest([] if is_empty else [each for each in trades if each["timestamp"] <= now_ms])(
            method, params
        )

    states = {FUTURES: StreamState(), options: StreamState()}

    def turn() -> list[str]:
        report = WindowReport()
        with client_of(answer) as client:
            sweeps = [
                StreamSweep(
                    client, stream, state, state.wanted(BEGIN_MS, now_ms)[0], now_ms, has_more_spans=False
                )
                for stream, state in states.items()
            ]
            tables = list(sweep_window(client, sweeps, SweepRequest(in_flight=2, max_trades=99), report))
        set_aside.append(report.set_aside)
        return [name for table in tables for name in table.column("instrument_name").to_pylist()]

    set_aside: list[Any] = []
    now_ms = BEGIN_MS + 30_000
    assert len(turn()) == SIZE
    now_ms, is_empty = BEGIN_MS + 150_000, True
    assert turn() == []
    assert set_aside[-1].keys() == states.keys()
    assert all(isinstance(each, CannotTellError) for each in set_aside[-1].values())
    is_empty = False
    assert turn() == [once["instrument_name"]]


@pytest.mark.parametrize(("again", "kinds"), [(False, ["any"]), (True, ["future", "option"])])
def test_newest_time_that_is_read_again_is_requested_by_kind(again: bool, kinds: list[str]) -> None:
    """An answer to `any` may be what left trades out."""
    now_ms, requested = BEGIN_MS + 30_000, []

    def answer(method: str, params: dict[str, str]) -> Any:
        requested.append(params["kind"])
        return page([])

    with client_of(answer) as client:
        sweeps = [
            StreamSweep(client, stream, StreamState(), Span(BEGIN_MS, now_ms), now_ms, has_more_spans=False)
            for stream in (FUTURES, Stream("BTC", "option"))
        ]
        request = SweepRequest(in_flight=1, kind_of={"BTC-PERPETUAL": "future"}, again=again)
        assert not list(sweep_window(client, sweeps, request, WindowReport()))
    assert requested == kinds


def test_time_before_the_history_of_the_live_host_is_not_covered() -> None:
    """After a day of suspension between request and answer, an empty page does not count as no trades."""
    late_us = (BEGIN_MS + 25 * HOUR_MS) * 1_000
    with client_of(honest([], usIn=late_us)) as client:
        report, state, rows = window(client, BEGIN_MS, BEGIN_MS - 60_000)
    [error] = report.set_aside.values()
    assert isinstance(error, ProofError)
    assert "24 hours" in str(error)
    assert (state.covered, report.covered, rows) == ([], [], 0)


@pytest.mark.parametrize(
    "us_in",
    [0, -1, BEGIN_MS, BEGIN_MS * 10**6, (BEGIN_MS - 24 * HOUR_MS) * 1_000, (BEGIN_MS + 90 * HOUR_MS) * 1_000],
    ids=["zero", "negative", "milliseconds", "nanoseconds", "yesterday", "in days"],
)
def test_answer_with_an_impossible_time_is_as_one_without(us_in: int) -> None:
    """The time is covered, nothing is fetched twice and the state does not grow."""
    now_ms = BEGIN_MS + HOUR_MS

    def answer(method: str, params: dict[str, str]) -> Any:
        if method == "get_time":
            return {"result": now_ms, "usIn": us_in}
        return honest(FULL, usIn=us_in)(method, params)

    with client_of(answer) as client:
        assert client.now_ms() == now_ms
        report, state, rows = window(client, now_ms, BEGIN_MS)
        assert client.now_ms() == now_ms
    assert (rows, report.set_aside) == (SIZE, {})
    assert [span.end_ms for span in state.covered] == [now_ms - 60_000]
    assert not state.recent


def test_trades_of_an_instrument_unknown_to_all_hosts_are_missing() -> None:
    """The exchange sent trades of it, so the missing ones are not absent; those that arrived are loaded."""

    def answer(method: str, params: dict[str, str]) -> Any:
        if method == "get_time":
            return {"result": BEGIN_MS + HOUR_MS}
        if "start_seq" in params:
            data = {"param": "instrument_name", "reason": "not found"}
            return {"error": {"code": -32602, "message": "Invalid params", "data": data}}
        return honest([FULL[0], FULL[2]])(method, params)

    with client_of(answer) as client:
        report, state, rows = window(client, BEGIN_MS + HOUR_MS, BEGIN_MS)
    assert (rows, report.absent) == (2, [])
    assert [each.range for each in report.unrepaired] == [SeqRange("BTC-PERPETUAL", 2, 2)]
    assert "refuses them by number" in report.unrepaired[0].reason
    assert state.covered


def test_dense_slice_ends_early_and_its_remainder_is_fetched() -> None:
    """A slice has at most a few pages, so that memory does not grow with density."""
    trades = [trade("BTC-PERPETUAL", n, n, BEGIN_MS + n * 100) for n in range(1, 400)]

    def answer(method: str, params: dict[str, str]) -> Any:
        envelope = honest(trades)(method, params)
        envelope["result"]["trades"] = envelope["result"]["trades"][: int(params["count"])]
        return envelope

    with client_of(answer, page_size=SIZE) as client:
        done = sweep_slice(client, client.history, FUTURES, Slice(BEGIN_MS, BEGIN_MS + HOUR_MS))
        assert done.end_ms < BEGIN_MS + HOUR_MS
        assert 2 * SIZE < done.table.num_rows <= MAX_PAGES * SIZE
        _, _, rows = window(client, BEGIN_MS + HOUR_MS, BEGIN_MS)
    assert rows == len(trades)


def test_window_ends_at_its_maximum_of_trades() -> None:
    """An interruption loses at most `max_trades` and the slices under way."""
    trades = [trade("BTC-PERPETUAL", n, n, BEGIN_MS + n * 10_000) for n in range(1, 300)]

    def answer(method: str, params: dict[str, str]) -> Any:
        envelope = honest(trades)(method, params)
        envelope["result"]["trades"] = envelope["result"]["trades"][: int(params["count"])]
        return envelope

    now_ms = BEGIN_MS + 10 * HOUR_MS
    with client_of(answer, page_size=SIZE) as client:
        state, report = StreamState(), WindowReport()
        sweep = StreamSweep(client, FUTURES, state, Span(BEGIN_MS, now_ms), now_ms, has_more_spans=False)
        tables = list(sweep_window(client, [sweep], SweepRequest(in_flight=2, max_trades=50), report))
    rows = sum(table.num_rows for table in tables)
    assert 50 <= rows == report.trades <= 50 + 2 * 3 * SIZE
    assert not report.is_last
    [covered] = state.covered
    assert rows == sum(covered.start_ms <= each["timestamp"] <= covered.end_ms for each in trades)


def test_trade_missing_between_two_covered_spans_is_fetched() -> None:
    """It is on no page by time; its number is between the last trade of one window and the first of the other."""

    def answer(method: str, params: dict[str, str]) -> Any:
        whole = [each | {"new_field": 1} if each["trade_seq"] == 10 else each for each in FULL]
        shown = whole if "start_seq" in params else [each for each in FULL if each["trade_seq"] != 10]
        return honest(shown)(method, params)

    now_ms, middle_ms = BEGIN_MS + HOUR_MS, FULL[10]["timestamp"]
    with client_of(answer) as client:
        _, state, rows = window(client, now_ms, middle_ms)
        assert rows == 10
        [span] = state.wanted(BEGIN_MS, middle_ms)
        report = WindowReport()
        sweep = StreamSweep(client, FUTURES, state, span, now_ms, has_more_spans=False)
        tables = list(sweep_window(client, [sweep], SweepRequest(in_flight=1, max_trades=99), report))
    assert (report.trades, report.repaired, report.unknown_fields) == (10, 1, {"new_field": 1})
    assert tables[-1].column("trade_seq").to_pylist() == [10]


def test_second_trade_with_a_number_is_rejected_by_a_repair() -> None:
    """The earliest of two trades with one number on a page is used, and the other is stored with its text."""
    first = trade("BTC-PERPETUAL", 1, 1, BEGIN_MS)
    second = first | {"trade_id": "2", "timestamp": BEGIN_MS + 1, "price": 7.0}
    client = client_of(lambda method, params: page([second, first]))
    (result,) = repair_all(client, [SeqRange("BTC-PERPETUAL", 1, 1)])
    assert result.table.column("trade_id").to_pylist() == [first["trade_id"]]
    assert [json.loads(bad.raw)["trade_id"] for bad in result.rejected] == ["2"]


def test_unreachable_exchange_cancels_the_requests_under_way() -> None:
    """A request of another stream is not retried to the end of its bounds for a window that has failed."""
    is_retrying = threading.Event()
    attempts = 500

    def answer(method: str, params: dict[str, str]) -> Any:
        if params.get("kind") == "option":
            is_retrying.set()
            time.sleep(0.005)
            return httpx.Response(503)
        assert is_retrying.wait(20)
        raise httpx.ConnectError("refused")

    now_ms, report = BEGIN_MS + HOUR_MS, WindowReport()
    with client_of(answer, most=2 * attempts, attempts=attempts) as client:
        sweeps = [
            StreamSweep(client, stream, StreamState(), Span(BEGIN_MS, now_ms), now_ms, has_more_spans=False)
            for stream in (FUTURES, Stream("BTC", "option"))
        ]
        with pytest.raises(RetriableError, match="cannot be reached"):
            list(sweep_window(client, sweeps, SweepRequest(in_flight=2, max_trades=10_000), report))
        assert client.stats.requests < 2 * attempts
    assert not report.set_aside
