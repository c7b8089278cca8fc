"""The Lambda of the increment, run by AWS's runtime client: in time, out of time, and killed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest
from clickhouse_connect.driver.client import Client

from extract.aws.lambda_increment import _options
from extract.errors import UsageError
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from extract.source.options import RunOptions
from tests.aws.conftest import Machine
from tests.support.edge import needs_caddy
from tests.support.small_windows import keys_in, keys_of

pytestmark = needs_caddy
Start = Callable[..., SandboxExchange]
SLOW = "rate=1,kinds=slow,slow={},on=get_last_trades"
SMALL = {"SOURCES__DERIBIT__WINDOW_TRADES": "200", "SOURCES__DERIBIT__PAGE_SIZE": "20"}


def test_invocations_load_new_trades_once(
    machine: Machine, start_exchange: Start, cloud: Client, tape: Tape
) -> None:
    """State comes from ClickHouse, nothing stays in /tmp, and an event may select streams."""
    exchange = start_exchange(tape)
    with machine.at(exchange).function() as function:
        first = function.invoke(kinds=["spot"])
        assert first["status"] == "done"
        assert 0 < len(keys_in(cloud)) == first["trades"] < len(keys_of(tape))
        assert function.invoke()["status"] == "done"
        assert keys_in(cloud) == keys_of(tape)
        assert function.invoke()["trades"] == 0
    assert keys_in(cloud) == keys_of(tape)
    assert os.listdir(machine.tmp) == []


@pytest.mark.slow(minutes=1)
@pytest.mark.parametrize(
    ("slow_s", "trades", "timeout_s", "patience_s", "at_least"),
    [(0.5, 4_000, 8, 60, 2), pytest.param(0.5, 40_000, 20, 60, 10, marks=pytest.mark.heavy)],
)
def test_invocations_end_in_time_and_add_up_to_one_long_run(
    machine: Machine,
    start_exchange: Start,
    cloud: Client,
    slow_s: float,
    trades: int,
    timeout_s: float,
    patience_s: float,
    at_least: int,
) -> None:
    """On a slow exchange each reports `more` and loads what it has, until every trade is loaded once.

    On a busy machine the time of an invocation may be too short, so none is killed before a minute has passed.
    """
    tape = Tape.generate(seed=11, trades=trades, days=3)
    exchange = start_exchange(tape, faults=SLOW.format(slow_s))
    one_window = {"SOURCES__DERIBIT__WINDOW_TRADES": "100000", "SOURCES__DERIBIT__PAGE_SIZE": "25"}
    machine.at(exchange, **one_window)
    answers = []
    with machine.function() as function:
        while not answers or answers[-1]["status"] == "more":
            answers.append(function.invoke(timeout_s, kill_after_s=patience_s))
            assert len(answers) < 30, "the invocations make no progress"
    assert [each["status"] for each in answers] == ["more"] * (len(answers) - 1) + ["done"]
    assert len(answers) >= at_least
    assert keys_in(cloud) == keys_of(tape)
    assert sum(each["trades"] for each in answers) == len(keys_of(tape))


def finish(
    machine: Machine, exchange: SandboxExchange, cloud: Client, tape: Tape, timeout_s: float = 60
) -> None:
    """Run to completion after kills, and compare with one long run."""
    assert 0 < len(keys_in(cloud)) < len(keys_of(tape)), "not killed in the middle of the work"
    exchange.faults = type(exchange.faults)()
    with machine.function() as function:
        assert function.invoke(timeout_s)["status"] == "done"
    assert keys_in(cloud) == keys_of(tape)
    assert os.listdir(machine.tmp) == []


@pytest.mark.slow
def test_killed_invocations_lose_and_duplicate_nothing(
    machine: Machine, start_exchange: Start, cloud: Client, tape: Tape
) -> None:
    """Killed while loading, with their files still in /tmp."""
    exchange = start_exchange(tape, faults=SLOW.format(0.1))
    machine.at(exchange, **SMALL)
    for _ in range(3):
        before = loaded(cloud)
        with machine.function() as function:
            function.begin()
            while loaded(cloud) == before:
                time.sleep(0.01)
        assert os.listdir(machine.tmp / "deribit-tape"), "killed before it wrote any file"
    finish(machine, exchange, cloud, tape)


def loaded(cloud: Client) -> int:
    sql = "SELECT sum(rows) FROM system.parts WHERE active AND database = 'deribit_raw' AND table = 'trades'"
    return int(cloud.command(sql))


@pytest.mark.heavy
@pytest.mark.slow
def test_ten_invocations_killed_at_different_times(
    machine: Machine, start_exchange: Start, cloud: Client
) -> None:
    """Whatever each of them is doing at that time; a long run completes the rest."""
    tape = Tape.generate(seed=11, trades=60_000, days=3)
    exchange = start_exchange(tape, faults=SLOW.format(0.2))
    machine.at(exchange, **SMALL)
    for after_s in (15, 3, 5, 7, 4, 9, 6, 11, 8, 10):
        with machine.function() as function, pytest.raises(TimeoutError):
            function.invoke(timeout_s=900, kill_after_s=after_s)
    machine.at(exchange)
    finish(machine, exchange, cloud, tape, timeout_s=600)


@pytest.mark.slow
def test_invocation_killed_between_data_and_state_duplicates_nothing(
    machine: Machine, start_exchange: Start, cloud: Client, tape: Tape
) -> None:
    """The trades of a package are loaded, its state is not, and its disk is gone: the next one deletes the rows."""
    exchange = start_exchange(tape)
    machine.at(exchange)
    with machine.function() as function:
        assert function.invoke(kinds=["spot"])["status"] == "done"
        refuse = "ALTER TABLE deribit_raw._dlt_pipeline_state ADD CONSTRAINT none CHECK version < 0"
        cloud.command(refuse)
        failed = function.invoke()
        assert failed["errorType"] == "InvocationFailedError"
        half = keys_in(cloud)
        assert len(half) == len(keys_of(tape)), "killed before the data was loaded"
        cloud.command("ALTER TABLE deribit_raw._dlt_pipeline_state DROP CONSTRAINT none")
        assert function.invoke()["status"] == "done"
    assert keys_in(cloud) == keys_of(tape)


def test_unknown_field_of_an_event_is_refused() -> None:
    """It would select everything; the fields of a schedule's own event do."""
    with pytest.raises(UsageError, match="The event has currency; it can have since, until, currencies"):
        _options({"currency": ["BTC"]})
    assert _options({"detail-type": "Scheduled Event", "id": "1"}) == _options({}) == RunOptions()


@pytest.mark.slow
def test_usage_error_fails_the_invocation_with_one_sentence(
    machine: Machine, start_exchange: Start, tape: Tape
) -> None:
    """The alarm on failed invocations fires, and the log has no traceback."""
    machine.at(start_exchange(tape))
    with machine.function() as function:
        failed = function.invoke(currencies=["DOGE"])
        assert failed["errorMessage"].startswith("--currency 'DOGE' does not exist; the exchange has BTC")
