"""Trades are loaded wherever history ends, and time that no host can prove is not covered."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extract.deribit.streams import Stream
from extract.errors import CannotTellError, FinalError
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from extract.sweep.state import StreamState
from extract.sweep.window import SweepRequest
from extract.sweep.windows import sweep_windows
from tests.support.altered_exchange import AlteredExchange
from tests.support.contradictory_exchange import client_of
from tests.support.histories import BEGIN_MS, STREAMS, Record, histories, trade
from tests.support.sweep_helpers import Crawl, row_of

MINUTE_MS = 60_000
DAY_MS = 24 * 60 * MINUTE_MS
OPTIONS = Stream("BTC", "option")
NOW_MS = BEGIN_MS + 3 * DAY_MS
EMPTY = {"trades": [], "has_more": False}


def busy_days(*, until_ms: int = NOW_MS, step_ms: int = 30 * MINUTE_MS) -> list[Record]:
    """A trade of a future every half hour, and 20 trades of an option between 35 and 25 minutes before NOW_MS."""
    times = [("BTC-PERPETUAL", n, at_ms) for n, at_ms in enumerate(range(BEGIN_MS, until_ms, step_ms), 1)]
    option_ms = NOW_MS - 35 * MINUTE_MS
    times += [("BTC-17NOV23-35000-P", n, option_ms + n * MINUTE_MS // 2) for n in range(1, 21)]
    times.sort(key=lambda each: each[2])
    return [trade(name, seq, number, at_ms) for number, (name, seq, at_ms) in enumerate(times)]


def once(records: list[Record]) -> dict[Any, int]:
    return dict.fromkeys(map(row_of, records), 1)


def test_trades_that_a_late_history_lacks_come_from_the_live_host() -> None:
    """History is 40 minutes behind; the option does not trade again."""
    records = busy_days()
    with SandboxExchange(Tape.of(records), clock=NOW_MS, history_lag_ms=40 * MINUTE_MS) as exchange:
        crawl = Crawl(exchange, STREAMS)
        crawl.run()
        assert dict(crawl.rows) == once(records)
        exchange.history_lag_ms = 0
        exchange.now_ms = NOW_MS + 10 * MINUTE_MS
        assert crawl.run() == 0


def test_trades_that_a_late_history_of_one_kind_lacks_come_from_the_live_host() -> None:
    """After a pause of two and a half hours the history of options is 40 minutes behind, and that of futures is not."""
    records = busy_days(step_ms=5 * MINUTE_MS)
    late_ms = NOW_MS - 40 * MINUTE_MS

    def answer(method: str, params: dict[str, str], is_history: bool) -> Any:
        if not is_history or "trades" not in method or params.get("kind") in ("future", "any"):
            return None
        return lambda result: (
            result | {"trades": [each for each in result["trades"] if each["timestamp"] <= late_ms]}
        )

    with SandboxExchange(Tape.of(records), clock=NOW_MS - 150 * MINUTE_MS) as exchange:
        crawl = Crawl(exchange, STREAMS)
        crawl.run()
        exchange.now_ms = NOW_MS
        crawl.transport = AlteredExchange(answer)
        crawl.run()
        assert dict(crawl.rows) == once(records)


@pytest.mark.parametrize(("unoffered", "param"), [("BTC", "currency"), ("option", "kind")])
@pytest.mark.parametrize("lag_minutes", [0, 40])
def test_trades_that_the_live_host_refuses_since_they_were_delisted_come_from_history(
    unoffered: str, param: str, lag_minutes: int
) -> None:
    """Up to the last one, also if the history host is behind at first."""
    records = busy_days()
    body = {"error": {"code": -32602, "message": "Invalid params", "data": {"param": param}}}

    def delisted(method: str, params: dict[str, str], is_history: bool) -> Any:
        is_refused = not is_history and params.get(param) == unoffered
        return httpx.Response(400, text=json.dumps(body)) if is_refused else None

    with SandboxExchange(Tape.of(records), clock=NOW_MS - 12 * 60 * MINUTE_MS) as exchange:
        crawl = Crawl(exchange, STREAMS, unoffered=frozenset([unoffered]))
        crawl.run()
        exchange.history_lag_ms = lag_minutes * MINUTE_MS
        crawl.transport = AlteredExchange(delisted)
        for later_ms in (0, 2 * MINUTE_MS, 20 * MINUTE_MS, DAY_MS, 2 * DAY_MS):
            exchange.now_ms = NOW_MS + later_ms
            crawl.run()
            assert not any(report.set_aside for report in crawl.reports)
            exchange.history_lag_ms *= later_ms < 2 * MINUTE_MS
        assert dict(crawl.rows) == once(records)
        [*_, (_, end_ms)] = json.loads(crawl.state)["BTC option"]["covered"]
        assert exchange.now_ms - end_ms < DAY_MS


def test_newest_trade_without_a_readable_time_is_not_awaited() -> None:
    """The sweep rejects it; nothing shows that history lacks anything."""
    odd = {"trades": [{"instrument_name": "BTC-17NOV23-35000-P", "trade_seq": 21}], "has_more": False}

    def alter(method: str, params: dict[str, str], is_history: bool) -> Any:
        return odd if is_history and method == "get_last_trades_by_currency" else None

    with SandboxExchange(Tape.of(busy_days()), clock=NOW_MS) as exchange:
        crawl = Crawl(exchange, STREAMS, transport=AlteredExchange(alter))
        crawl.run()
        assert not any(report.set_aside for report in crawl.reports)
        assert dict(crawl.rows) == once(busy_days())


def test_history_that_ends_before_the_live_host_begins_proves_nothing() -> None:
    """The next run, when history has caught up, loads everything."""
    records = busy_days()
    with SandboxExchange(Tape.of(records), clock=NOW_MS, history_lag_ms=2 * DAY_MS) as exchange:
        crawl = Crawl(exchange, STREAMS)
        with pytest.raises(CannotTellError, match="on the history host end at"):
            crawl.run()
        assert not crawl.rows
        exchange.history_lag_ms = 0
        crawl.run()
        assert dict(crawl.rows) == once(records)


def test_history_without_trades_proves_nothing() -> None:
    """The first run finds empty pages since 2016, although there are instruments and newer trades."""
    records = busy_days()
    with SandboxExchange(Tape.of(records), clock=NOW_MS) as exchange:
        crawl = Crawl(exchange, STREAMS)
        crawl.transport = AlteredExchange(
            lambda method, params, is_history: EMPTY if is_history and "trades" in method else None
        )
        with pytest.raises(CannotTellError, match="do not exist"):
            crawl.run()
        assert crawl.state == "{}"
        crawl.transport = None
        crawl.run()
        assert dict(crawl.rows) == once(records)
        assert not crawl.absent


def test_currency_with_expired_instruments_and_no_trade_is_not_covered() -> None:
    """Neither host has a trade, so that nobody can tell whether history is complete."""
    with SandboxExchange(Tape.of(busy_days()), clock=NOW_MS + 90 * DAY_MS) as exchange:
        crawl = Crawl(exchange, [OPTIONS])
        crawl.transport = AlteredExchange(
            lambda method, params, is_history: EMPTY if "trades" in method else None
        )
        with pytest.raises(CannotTellError, match="lists expired instruments of BTC"):
            crawl.run()
        assert crawl.state == "{}"


def test_quiet_stream_is_covered_up_to_now() -> None:
    """Its newest trade is 40 days old, and both hosts agree that it has no other."""
    records = busy_days()
    with SandboxExchange(Tape.of(records), clock=NOW_MS + 40 * DAY_MS) as exchange:
        crawl = Crawl(exchange, STREAMS)
        crawl.run()
        assert dict(crawl.rows) == once(records)
        assert all(span.end_ms > NOW_MS + 39 * DAY_MS for _, span in crawl.reports[-1].covered)
        assert len(crawl.reports[-1].covered) == len(STREAMS)


@pytest.mark.slow
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(histories(), st.integers(0, 60 * 60), st.integers(2, 50))
def test_each_trade_is_loaded_once_however_late_history_is(
    records: list[Record], lag_minutes: int, page_size: int
) -> None:
    """Either a run loads every trade, or it covers nothing and the next one does."""
    now_ms = max(record["timestamp"] for record in records) + 2 * MINUTE_MS
    with SandboxExchange(Tape.of(records), clock=now_ms, history_lag_ms=lag_minutes * MINUTE_MS) as exchange:
        crawl = Crawl(exchange, STREAMS, page_size=page_size)
        try:
            crawl.run()
        except CannotTellError:
            assert not crawl.rows
        else:
            set_aside = crawl.reports[-1].set_aside
            assert set_aside or dict(crawl.rows) == once(records)
        exchange.history_lag_ms = 0
        crawl.run()
        assert dict(crawl.rows) == once(records)
        assert not crawl.absent


def test_time_after_the_answers_is_not_covered_if_the_clock_was_ahead_once() -> None:
    """`get_time` is a day ahead in one answer; trades of that day are loaded by the next runs."""
    records = busy_days(until_ms=NOW_MS + DAY_MS)
    with SandboxExchange(Tape.of(records), clock=NOW_MS) as exchange:
        crawl = Crawl(exchange, STREAMS)
        crawl.transport = AlteredExchange(
            lambda method, params, is_history: NOW_MS + DAY_MS if method == "get_time" else None
        )
        crawl.run()
        crawl.transport = None
        for hours in (1, 12, 25):
            exchange.now_ms = NOW_MS + hours * 60 * MINUTE_MS
            crawl.run()
        assert dict(crawl.rows) == once(records)


def test_short_span_is_fetched_from_the_live_host_alone() -> None:
    """A run an hour needs no request to the history host."""
    with SandboxExchange(Tape.of(busy_days()), clock=NOW_MS) as exchange:
        crawl = Crawl(exchange, STREAMS)
        crawl.run()
        crawl.transport = transport = AlteredExchange()
        exchange.now_ms = NOW_MS + 60 * MINUTE_MS
        crawl.run()
    assert [method for method, _, is_history in transport.requests if is_history] == []


@pytest.mark.parametrize("ahead_ms", [DAY_MS, -DAY_MS, 11 * MINUTE_MS])
def test_exchange_whose_clock_differs_from_the_computers_is_refused(ahead_ms: int) -> None:
    """Nothing is requested but the time; a sandbox may show any time."""
    state = StreamState()
    with client_of(lambda method, params: {"result": NOW_MS}) as client:
        request = SweepRequest(NOW_MS - MINUTE_MS, machine_s=lambda: (NOW_MS - ahead_ms) / 1000)
        with pytest.raises(FinalError, match="clock shows 2023-11-17"):
            list(sweep_windows(client, request, {OPTIONS: state}))
    assert client.stats.requests == 1
    assert state.covered == []


def test_history_that_does_not_send_its_newest_trade_proves_nothing() -> None:
    """Pages by time are empty, and the newest trade, of a month ago, is there."""
    records = busy_days()
    with SandboxExchange(Tape.of(records), clock=NOW_MS + 30 * DAY_MS) as exchange:
        crawl = Crawl(exchange, STREAMS[:2])
        crawl.transport = AlteredExchange(
            lambda method, params, is_history: EMPTY if method.endswith("currency_and_time") else None
        )
        with pytest.raises(CannotTellError, match="does not send it"):
            crawl.run()
        crawl.transport = None
        crawl.run()
        assert dict(crawl.rows) == once(records)


@pytest.mark.parametrize("is_unknown", [False, True])
def test_history_without_trades_of_one_kind_is_compared_with_its_expired_instruments(
    is_unknown: bool,
) -> None:
    """Options of a month ago have trades by name and none by kind; where none has any, the time is covered."""
    records = busy_days()

    def answer(method: str, params: dict[str, str], is_history: bool) -> Any:
        if is_unknown and "instrument_name" in params:
            return httpx.Response(400, text=json.dumps({"error": {"code": 13020, "message": "not_found"}}))
        return EMPTY if params.get("kind") == "option" and "trades" in method else None

    with SandboxExchange(Tape.of(records), clock=NOW_MS + 90 * DAY_MS) as exchange:
        crawl = Crawl(exchange, STREAMS[:2])
        crawl.transport = transport = AlteredExchange(answer)
        crawl.run()
        by_name = [params for method, params, _ in transport.requests if method.endswith("by_instrument")]
        assert len(by_name) <= 3
        covered = {stream for stream, _ in crawl.reports[-1].covered}
        assert covered == ({*STREAMS[:2]} if is_unknown else {STREAMS[0]})
        if not is_unknown:
            assert "sends none of BTC option" in str(crawl.reports[-1].set_aside[OPTIONS])
            crawl.transport = None
            crawl.run()
            assert dict(crawl.rows) == once(records)


def test_time_that_the_computer_has_not_reached_is_not_covered() -> None:
    """The exchange's clock is five minutes ahead in one run: the trades of these minutes are loaded by the next one."""
    ahead_ms = 5 * MINUTE_MS
    state = StreamState()
    with client_of(lambda method, params: {"result": NOW_MS if method == "get_time" else EMPTY}) as client:
        request = SweepRequest(NOW_MS - 60 * MINUTE_MS, machine_s=lambda: (NOW_MS - ahead_ms) / 1000)
        list(sweep_windows(client, request, {OPTIONS: state}))
    assert NOW_MS - ahead_ms - MINUTE_MS <= state.covered[-1].end_ms <= NOW_MS - ahead_ms


@pytest.mark.parametrize("lag_minutes", [0, 40], ids=["history to now", "history ends earlier"])
def test_live_host_that_does_not_send_the_newest_trade_of_history_proves_nothing(lag_minutes: int) -> None:
    """Its pages are empty during the first run, which has loaded nothing yet that the live host would have to send."""
    records = busy_days(step_ms=7 * MINUTE_MS)
    lag_ms = lag_minutes * MINUTE_MS
    with SandboxExchange(Tape.of(records), clock=NOW_MS, history_lag_ms=lag_ms) as exchange:
        crawl = Crawl(exchange, STREAMS[:1])
        crawl.transport = AlteredExchange(
            lambda method, params, is_history: EMPTY if not is_history and "trades" in method else None
        )
        with pytest.raises(CannotTellError, match="and the live host does not send it"):
            crawl.run()
        assert not crawl.rows
        crawl.transport = None
        crawl.run()
        assert dict(crawl.rows) == once(
            [each for each in records if each["instrument_name"] == "BTC-PERPETUAL"]
        )


@pytest.mark.parametrize("is_answered", [True, False], ids=["answered", "another currency has no answer"])
def test_quiet_currency_is_not_covered_while_the_whole_history_is_behind(is_answered: bool) -> None:
    """Its last trade is neither in a history that ends 30 hours ago, nor among the live host's trades of one day."""
    hour_ms = 60 * MINUTE_MS
    quiet = Stream("ETH", "future")
    records = busy_days()
    lost = [trade("ETH-PERPETUAL", n, 9_000 + n, NOW_MS - (50, 27)[n - 1] * hour_ms) for n in (1, 2)]
    streams = [STREAMS[0], OPTIONS, quiet, Stream("XRP", "future")]

    def answer(method: str, params: dict[str, str], is_history: bool) -> Any:
        return httpx.Response(503) if params.get("currency") == "XRP" and not is_answered else None

    with SandboxExchange(Tape.of([*records, *lost]), clock=NOW_MS, history_lag_ms=30 * hour_ms) as exchange:
        crawl = Crawl(exchange, streams)
        crawl.transport = AlteredExchange(answer)
        with pytest.raises(CannotTellError):
            crawl.run()
        assert not crawl.rows
        reasons = crawl.reports[-1].set_aside
        assert "in all currencies, and the live host has newer trades" in str(reasons[quiet])
        exchange.history_lag_ms = 0
        crawl.run()
        assert dict(crawl.rows) == once([*records, *lost])


def test_quiet_currency_is_covered_while_history_is_behind_if_the_live_host_has_the_whole_time() -> None:
    records = busy_days()
    quiet = Stream("ETH", "future")
    last = trade("ETH-PERPETUAL", 1, 9_000, BEGIN_MS)
    hour_ms = 60 * MINUTE_MS
    with SandboxExchange(Tape.of([*records, last]), clock=NOW_MS - 5 * hour_ms) as exchange:
        crawl = Crawl(exchange, [quiet, STREAMS[0]])
        crawl.run()
        exchange.now_ms, exchange.history_lag_ms = NOW_MS, 30 * hour_ms
        crawl.run()
        assert quiet in {stream for stream, _ in crawl.reports[-1].covered}


def test_quiet_currency_is_covered_if_another_cannot_be_requested_or_is_up_to_date() -> None:
    """Each other currency is asked for only once."""
    quiet = [Stream("ETH", "future"), Stream("SOL", "future")]
    records = busy_days()
    last = [trade(f"{each.currency}-PERPETUAL", 1, 9_000, BEGIN_MS) for each in quiet]

    def answer(method: str, params: dict[str, str], is_history: bool) -> Any:
        return httpx.Response(403) if params.get("currency") == "BTC" else None

    for alter in (answer, lambda method, params, is_history: None):
        with SandboxExchange(Tape.of([*records, *last]), clock=NOW_MS) as exchange:
            crawl = Crawl(exchange, [*quiet, STREAMS[0]])
            crawl.transport = transport = AlteredExchange(alter)
            crawl.run()
            assert {*quiet} <= {stream for stream, _ in crawl.reports[-1].covered}
            ends = [params for method, params, _ in transport.requests if method.endswith("by_currency")]
            assert sum(each["currency"] == "BTC" and each["kind"] == "any" for each in ends) <= 3
