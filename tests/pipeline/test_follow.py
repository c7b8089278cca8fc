"""`tape follow` loads what is new in turns of one process, and a backfill does not delay new trades."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import pytest
from clickhouse_connect.driver.client import Client

from extract.clickhouse.settings import ClickHouseSettings
from extract.errors import RetriableError, TapeError, UsageError
from extract.pipeline.follow import LONGEST_PAUSE_S, follow
from extract.pipeline.stop import StopSignal
from extract.pipeline.summary import RunSummary
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from extract.source.options import RunOptions
from tests.support.proxy import proxy_to
from tests.support.small_windows import keys_in, keys_of

Listed = Callable[[Tape], SandboxExchange]
MINUTE_MS = 60_000


@pytest.fixture(autouse=True)
def current_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each turn requests the time, which these tests change between two turns of a fraction of a second."""
    monkeypatch.setattr("extract.deribit.client.RECENT_S", 0.0)


class Turns:
    """Follows for some turns; `between(n)` is called after turn n, counted from 1."""

    def __init__(self, turns: int, between: Callable[[int], None] = lambda turn: None) -> None:
        self.results: list[RunSummary | TapeError] = []
        self._turns = turns
        self._between = between
        self._stop = StopSignal()

    def run(self, session_s: float = 600.0) -> list[RunSummary | TapeError]:
        follow(RunOptions(currencies=("BTC",)), 0.01, self._on_turn, self._stop, session_s=session_s)
        return self.results

    def _on_turn(self, result: RunSummary | TapeError) -> None:
        self.results.append(result)
        if len(self.results) >= self._turns:
            self._stop.request("by the test")
        self._between(len(self.results))


def test_each_turn_loads_what_is_new(listed: Listed, clickhouse_client: Client) -> None:
    """Also in a new session, in which the lease was released."""
    tape = Tape.generate(seed=3, trades=800, days=1)
    exchange = listed(tape)
    begin_ms, end_ms = tape.trades[0]["timestamp"], tape.trades[-1]["timestamp"] + 2 * MINUTE_MS
    exchange.now_ms = begin_ms + (end_ms - begin_ms) // 2

    def advance(turn: int) -> None:
        exchange.now_ms += (end_ms - begin_ms) // 8

    Turns(3, advance).run()
    assert 0 < len(keys_in(clickhouse_client)) < len(keys_of(tape))
    exchange.now_ms = end_ms
    Turns(2).run(session_s=0)
    assert keys_in(clickhouse_client) == keys_of(tape)


@pytest.mark.slow
def test_idle_turns_write_nothing_until_ten_minutes_are_covered(
    listed: Listed, clickhouse_client: Client
) -> None:
    """Then one small package moves the end of covered time, so that the lag stays true."""
    tape = Tape.generate(seed=3, trades=300, days=1)
    exchange = listed(tape)
    end_ms = tape.trades[-1]["timestamp"] + 2 * MINUTE_MS
    exchange.now_ms = end_ms
    packages: list[int] = []

    def advance(turn: int) -> None:
        packages.append(clickhouse_client.command("select count() from deribit_raw._dlt_loads"))
        exchange.now_ms += MINUTE_MS

    Turns(25, advance).run()
    first = packages[0]
    assert packages[:10] == [first] * 10
    assert packages[-1] == first + 2
    covered_to = "select toUnixTimestamp64Milli(max(covered_to)) from deribit_raw.coverage"
    assert clickhouse_client.command(covered_to) > end_ms + 15 * MINUTE_MS


@pytest.mark.slow
def test_failed_turn_is_reported_and_repeated(listed: Listed, clickhouse_client: Client) -> None:
    """The database refuses one package; the next turn loads it."""
    tape = Tape.generate(seed=3, trades=600, days=1)
    exchange = listed(tape)
    end_ms = tape.trades[-1]["timestamp"] + 2 * MINUTE_MS
    exchange.now_ms = tape.trades[300]["timestamp"]

    def change(turn: int) -> None:
        if turn == 1:
            exchange.now_ms = end_ms
            clickhouse_client.command("alter table deribit_raw.trades add constraint refused check price < 0")
        elif isinstance(turns.results[-1], TapeError):
            clickhouse_client.command("alter table deribit_raw.trades drop constraint if exists refused")

    # A turn may still use the time of an answer before the change, so new trades may come one turn later.
    turns = Turns(4, change)
    first, *others = turns.run()
    assert isinstance(first, RunSummary)
    failed = [result for result in others if isinstance(result, TapeError)]
    assert failed
    assert all("refused" in str(error) for error in failed)
    assert keys_in(clickhouse_client) == keys_of(tape)


@pytest.mark.parametrize("status", ["404 Not Found", "403 Forbidden"])
def test_refusal_between_two_turns_passes(
    listed: Listed,
    clickhouse: ClickHouseSettings,
    clickhouse_client: Client,
    monkeypatch: pytest.MonkeyPatch,
    status: str,
) -> None:
    """As from a load balancer without a server behind it: the login was right before."""
    tape = Tape.generate(seed=3, trades=100, days=1)
    exchange = listed(tape)
    end_ms = exchange.now_ms
    exchange.now_ms = tape.trades[50]["timestamp"]

    def change(turn: int) -> None:
        if turn == 1:
            exchange.now_ms = end_ms
            proxy.canned_response = f"HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\nsorry".encode()
            proxy.disconnect()
        elif isinstance(turns.results[-1], TapeError):
            proxy.canned_response = None

    turns = Turns(5, change)
    with proxy_to(clickhouse.port) as proxy:
        monkeypatch.setenv("CLICKHOUSE_LOCAL_PORT", str(proxy.port))
        assert any(isinstance(result, TapeError) for result in turns.run())
    assert keys_in(clickhouse_client) == keys_of(tape)


def test_pause_is_bounded_after_any_number_of_failures(
    clickhouse_env: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage of days."""
    pauses: list[float] = []
    monkeypatch.setattr(StopSignal, "wait", lambda _, seconds: pauses.append(seconds))

    def is_down(_: object) -> NoReturn:
        raise RetriableError("ClickHouse does not answer.")

    monkeypatch.setattr("extract.pipeline.follow.open_session", is_down)
    Turns(1_200).run()
    assert pauses[0] < 1
    assert max(pauses) == pauses[-1] == LONGEST_PAUSE_S


def test_mistake_ends_it_at_once(small_windows: None, listed: Listed) -> None:
    listed(Tape.generate(seed=3, trades=30, days=1))
    with pytest.raises(UsageError, match="XYZ"):
        follow(RunOptions(currencies=("XYZ",)), 1, lambda turn: None, StopSignal())
