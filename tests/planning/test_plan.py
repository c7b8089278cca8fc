"""`--plan` tells what a run takes before it runs: trades, requests, bytes over the wire and on disk."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client

from extract.paths import ROOT
from extract.pipeline import RunOptions, run
from extract.planner import make_plan
from extract.planning import Plan
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from tests.fixtures.commands import UserShell

SHARED = Path(os.environ.get("DERIBIT_TAPE_SHARED") or ROOT.parent / "shared")
RECORDED = SHARED / "data/deribit/tape_2019_options.ndjson.gz"
MOST_A_STREAM = 12


@pytest.fixture
def user(clickhouse_env: object, clean_clickhouse: object, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
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
    print(plan, summary.total, summary.requests, summary.wire_bytes, summary.disk_bytes)
    assert summary.plan == plan
    assert plan.trades == pytest.approx(summary.total + summary.repaired, rel=within)
    assert plan.requests == pytest.approx(summary.requests, rel=within)
    assert plan.wire_bytes == pytest.approx(summary.wire_bytes, rel=within)
    return plan


@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded tape is not beside the checkout")
def test_a_plan_of_the_recorded_tape_is_within_a_fifth(user: pytest.MonkeyPatch) -> None:
    """Unevenly traded options, 70 missing heads: trades, requests and bytes as the run then used them."""
    plan_and_run(Tape.load(RECORDED), user, 0.2)


@pytest.mark.parametrize("page_size", ["10000", "1000"])
def test_a_plan_of_a_generated_tape_is_within_a_quarter(user: pytest.MonkeyPatch, page_size: str) -> None:
    """Counted where a page holds a stream, reckoned where it does not, in one window or in several."""
    user.setenv("SOURCES__DERIBIT__PAGE_SIZE", page_size)
    plan_and_run(Tape.generate(seed=7, trades=20_000), user, 0.25)
