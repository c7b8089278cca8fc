"""`--plan` tells what a run takes before it runs: trades, requests, bytes over the wire and on disk."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client
from rich.console import Console

from extract.cli.run_summary import print_summary
from extract.errors import TapeError
from extract.estimate.estimator import Plan, load_plan
from extract.estimate.plan import make_plan
from extract.paths import ROOT
from extract.pipeline.run import RunOptions, run
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from tests.support.commands import UserShell

SHARED = Path(os.environ.get("DERIBIT_TAPE_SHARED") or ROOT.parent / "shared")
RECORDED = SHARED / "data/deribit/tape_2019_options.ndjson.gz"
MOST_A_STREAM = 12


@pytest.fixture
def user(
    clickhouse_env: object, clean_clickhouse: object, monkeypatch: pytest.MonkeyPatch
) -> pytest.MonkeyPatch:
    """The environment of a user with nothing anywhere."""
    monkeypatch.setenv("SOURCES__DERIBIT__REQUESTS_PER_SECOND", "1000")
    return monkeypatch


def point_at(exchange: SandboxExchange, user: pytest.MonkeyPatch) -> None:
    user.setenv("SOURCES__DERIBIT__API_URL", exchange.url)
    user.setenv("SOURCES__DERIBIT__HISTORY_URL", exchange.history_url)


def plan_and_run(tape: Tape, user: pytest.MonkeyPatch, within: float, **options: str) -> Plan:
    with SandboxExchange(tape) as exchange:
        point_at(exchange, user)
        asked = RunOptions(**options)
        plan = make_plan(asked)
        trades = [r for r in exchange.requests if "start_timestamp" in r.params]
        assert len(trades) <= MOST_A_STREAM * len(plan.streams)
        by_stream = [(r.params["currency"], r.params["kind"]) for r in trades]
        assert max(map(by_stream.count, by_stream)) <= MOST_A_STREAM
        summary = run(asked)
    assert summary.plan == plan
    assert plan.trades == pytest.approx(summary.total + summary.repaired, rel=within)
    assert plan.requests == pytest.approx(summary.requests, rel=within)
    assert plan.wire_bytes == pytest.approx(summary.wire_bytes, rel=within)
    return plan


@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded tape is not beside the checkout")
def test_a_plan_of_the_recorded_tape_is_within_a_fifth(user: pytest.MonkeyPatch) -> None:
    """Unevenly traded options, 70 missing heads: trades, requests and bytes as the run then used them."""
    plan = plan_and_run(Tape.load(RECORDED), user, 0.2)
    assert {each.how for each in plan.streams} == {"counted", "12 probes", "5 probes"}


@pytest.mark.parametrize("page_size", ["10000", "1000"])
def test_a_plan_of_a_generated_tape_is_within_a_quarter(user: pytest.MonkeyPatch, page_size: str) -> None:
    """Counted where a page holds a stream, reckoned where it does not, in one window or in several."""
    user.setenv("SOURCES__DERIBIT__PAGE_SIZE", page_size)
    plan_and_run(Tape.generate(seed=7, trades=20_000), user, 0.25)


def test_a_plan_loads_nothing_and_asks_for_what_is_not_covered(
    user: pytest.MonkeyPatch, small_tape: Tape, clickhouse_client: Client
) -> None:
    """Before a run no table and no state come of it; after the run of one half, the other half is planned."""
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
        rest = make_plan(RunOptions(since="2016-01-01"))
        assert rest.trades == sum(t["timestamp"] > middle_ms for t in small_tape.trades)
        assert any("in deribit_raw.trades" in line for line in rest.inputs)
        run(RunOptions())
        assert make_plan(RunOptions(since="2016-01-01", until=middle)).trades == 0
        assert make_plan(RunOptions()).trades == 0  # what is read again counts as loaded


def test_a_plan_is_shown_beside_the_fact_once(user: pytest.MonkeyPatch, small_tape: Tape) -> None:
    """By the run of the same question, not by another; what was run is no plan any more."""
    with SandboxExchange(small_tape) as exchange:
        point_at(exchange, user)
        asked = RunOptions(currencies=("btc",), kinds=("option", "future"))
        plan = make_plan(asked)
        assert run(RunOptions(currencies=("ETH",))).plan is None
        summary = run(RunOptions(currencies=("BTC",), kinds=("future", "option")))
        said = StringIO()
        print_summary(summary, Console(file=said, width=100))
    table = said.getvalue()[said.getvalue().index("planned ") :].splitlines()
    assert [line.rsplit(None, 2)[0] for line in table] == [
        f"planned {plan.planned_at}",
        *("trades", "requests", "seconds", "MB over the wire", "MB on disk"),
    ]
    assert len({len(line.rstrip()) for line in table}) == 1
    assert table[1].split() == ["trades", f"{plan.trades:,}", f"{summary.total:,}"]
    assert summary.disk_bytes > 0
    assert load_plan(asked.plan_key) is None


def test_a_run_that_was_cut_off_leaves_the_plan_to_the_next_one(
    user: pytest.MonkeyPatch, small_tape: Tape
) -> None:
    """Which then says that its figures are not those of the whole."""
    with SandboxExchange(small_tape) as exchange:
        point_at(exchange, user)
        plan = make_plan(RunOptions(kinds=("spot",)))
        user.setenv("SOURCES__DERIBIT__HISTORY_URL", f"{exchange.history_url}/nowhere")
        with pytest.raises(TapeError):
            run(RunOptions(kinds=("spot",)))
        point_at(exchange, user)
        summary = run(RunOptions(kinds=("spot",)))
        said = StringIO()
        print_summary(summary, Console(file=said, width=100))
    assert summary.plan == replace(plan, begun=True)
    assert "fact, of this run alone" in said.getvalue()


def test_the_command_prints_each_figure_with_what_it_rests_on(shell: UserShell, small_tape: Tape) -> None:
    """`dlt pipeline run --plan` tells streams, the whole and the inputs, and ends with 0."""
    with SandboxExchange(small_tape) as exchange:
        said = shell.at(exchange).ok("dlt", "pipeline", "run", "--plan", "--currency", "BTC").out
    assert "1000 requests a second, of [sources.deribit]." in said
    assert "at the rate limit" in said
    assert "a default: none are loaded" in said
    assert "Nothing was loaded" in said
