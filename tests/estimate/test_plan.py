"""`--plan` estimates trades, requests, bytes over the wire and bytes on disk before a run."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from clickhouse_connect.driver.client import Client

from extract.cli.run_summary import print_summary
from extract.errors import TapeError
from extract.estimate.estimator import Plan
from extract.estimate.plan import make_plan, plan_key, run_and_compare
from extract.estimate.store import load_plan
from extract.pipeline.run import run
from extract.pipeline.session import run_lock
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from extract.source.options import RunOptions
from tests.support.commands import UserShell
from tests.support.recorded import RECORDED_TAPE, needs_recordings

MOST_A_STREAM = 12


@pytest.fixture
def user(
    clickhouse_env: object, clean_clickhouse: object, monkeypatch: pytest.MonkeyPatch
) -> pytest.MonkeyPatch:
    """The environment of a new user, with empty directories and database."""
    monkeypatch.setenv("SOURCES__DERIBIT__REQUESTS_PER_SECOND", "1000")
    return monkeypatch


def point_at(exchange: SandboxExchange, user: pytest.MonkeyPatch) -> None:
    user.setenv("SOURCES__DERIBIT__API_URL", exchange.url)
    user.setenv("SOURCES__DERIBIT__HISTORY_URL", exchange.history_url)


def plan_and_run(tape: Tape, user: pytest.MonkeyPatch, within: float, **options: str) -> Plan:
    with SandboxExchange(tape) as exchange:
        point_at(exchange, user)
        selected = RunOptions(**options)
        plan = make_plan(selected)
        trades = [r for r in exchange.requests if "start_timestamp" in r.params]
        assert len(trades) <= MOST_A_STREAM * len(plan.streams)
        by_stream = [(r.params["currency"], r.params["kind"]) for r in trades]
        assert max(map(by_stream.count, by_stream)) <= MOST_A_STREAM
        summary, comparison = run_and_compare(selected, lambda: run(selected))
    assert comparison is not None
    assert comparison.plan == plan
    assert plan.trades == pytest.approx(summary.total + summary.repaired, rel=within)
    assert plan.requests == pytest.approx(summary.requests, rel=within)
    assert plan.wire_bytes == pytest.approx(summary.wire_bytes, rel=within)
    return plan


@pytest.mark.slow
@needs_recordings
def test_plan_of_the_recorded_tape_is_accurate_to_a_fifth(user: pytest.MonkeyPatch) -> None:
    """Unevenly traded options with 70 missing heads: trades, requests and bytes as in the run."""
    plan = plan_and_run(Tape.load(RECORDED_TAPE), user, 0.2)
    assert {each.how for each in plan.streams} == {"counted", "12 probes", "5 probes"}


@pytest.mark.slow
@pytest.mark.parametrize("page_size", ["10000", "1000"])
def test_plan_of_a_generated_tape_is_accurate_to_a_quarter(user: pytest.MonkeyPatch, page_size: str) -> None:
    """Streams that fit a page are counted, others estimated; with one window and with several."""
    user.setenv("SOURCES__DERIBIT__PAGE_SIZE", page_size)
    plan_and_run(Tape.generate(seed=7, trades=20_000), user, 0.25)


@pytest.mark.slow
def test_plan_loads_nothing_and_excludes_covered_time(
    user: pytest.MonkeyPatch, small_tape: Tape, clickhouse_client: Client
) -> None:
    """It creates no table; after a run of one half, only the other half is planned."""
    middle_ms = small_tape.trades[len(small_tape.trades) // 2]["timestamp"]
    middle = datetime.fromtimestamp(middle_ms / 1000, UTC).isoformat()
    with SandboxExchange(small_tape) as exchange:
        point_at(exchange, user)
        whole = make_plan(RunOptions())
        assert whole.trades == len(small_tape.trades)
        assert not clickhouse_client.query(
            "SELECT 1 FROM system.tables WHERE database = 'deribit_raw'"
        ).row_count
        run(RunOptions(until=middle))
        with run_lock():  # a run, such as `tape follow`, may be in progress
            rest = make_plan(RunOptions(since="2016-01-01"))
        assert rest.trades == sum(t["timestamp"] > middle_ms for t in small_tape.trades)
        assert any("in deribit_raw.trades" in line for line in rest.inputs)
        run(RunOptions())
        assert make_plan(RunOptions(since="2016-01-01", until=middle)).trades == 0
        assert (
            make_plan(RunOptions()).trades == 0
        )  # trades of the newest minute are read again, but loaded already


def test_plan_is_compared_with_the_next_run_of_the_same_options(
    user: pytest.MonkeyPatch, small_tape: Tape, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run of other options has no comparison; after the comparison the plan is deleted."""
    same, other = RunOptions(currencies=("BTC",), kinds=("future", "option")), RunOptions(currencies=("ETH",))
    with SandboxExchange(small_tape) as exchange:
        point_at(exchange, user)
        plan = make_plan(RunOptions(currencies=("btc",), kinds=("option", "future")))
        assert run_and_compare(other, lambda: run(other))[1] is None
        summary, comparison = run_and_compare(same, lambda: run(same))
    print_summary(summary, comparison)
    text = capsys.readouterr().out
    table = text[text.index("planned ") :].splitlines()
    assert [line.rsplit(None, 2)[0] for line in table] == [
        f"planned {plan.planned_at}",
        *("trades", "requests", "seconds", "MB over the wire", "MB on disk"),
    ]
    assert len({len(line.rstrip()) for line in table}) == 1
    assert table[1].split() == ["trades", f"{plan.trades:,}", f"{summary.total:,}"]
    assert comparison is not None
    assert comparison.disk_bytes > 0
    assert load_plan(plan_key(same)) is None


@pytest.mark.slow
def test_interrupted_run_leaves_the_plan_to_the_next_run(
    user: pytest.MonkeyPatch, small_tape: Tape, capsys: pytest.CaptureFixture[str]
) -> None:
    """The comparison then states that the figures are of one run only."""
    options = RunOptions(kinds=("spot",))
    with SandboxExchange(small_tape) as exchange:
        point_at(exchange, user)
        plan = make_plan(options)
        user.setenv("SOURCES__DERIBIT__HISTORY_URL", f"{exchange.history_url}/nowhere")
        with pytest.raises(TapeError):
            run_and_compare(options, lambda: run(options))
        point_at(exchange, user)
        summary, comparison = run_and_compare(options, lambda: run(options))
    print_summary(summary, comparison)
    assert comparison is not None
    assert comparison.plan == replace(plan, partially_run=True)
    assert "actual, this run only" in capsys.readouterr().out


def test_plan_command_prints_figures_and_their_inputs(shell: UserShell, small_tape: Tape) -> None:
    """`dlt pipeline run --plan` prints streams, totals and inputs, and exits with 0."""
    with SandboxExchange(small_tape) as exchange:
        output = shell.at(exchange).ok("dlt", "pipeline", "run", "--plan", "--currency", "BTC").out
    assert "1000 requests a second, of [sources.deribit]." in output
    assert "at the rate limit" in output
    assert "a default, because no trades are loaded" in output
    assert "Nothing was loaded" in output
