"""`tape measure-volume` and `tape poc-backfill` on a sandbox exchange and a real ClickHouse."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from extract.cost.measure.month_backfill import cpu_seconds
from extract.sandbox.instrument_names import parse
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from tests.support.clickhouse import deribit_tables
from tests.support.commands import Done

TapeCommand = Callable[..., Done]


def at(trade: dict[str, Any]) -> datetime:
    return datetime.fromtimestamp(trade["timestamp"] / 1000, UTC)


def test_measure_volume_counts_a_day_and_leaves_no_table(
    market: SandboxExchange, months: Tape, tape: TapeCommand, clickhouse_client: Client
) -> None:
    """Trades and instruments by currency and kind match the tape; requests match the exchange's count; a later plan uses
    the measurement."""
    day = at(months.trades[-1]).date() - timedelta(1)
    market.requests.clear()
    done = tape("measure-volume", "--json")
    assert done.code == 0
    report = json.loads(done.out)
    assert report["day"] == str(day)
    truth = [t for t in months.trades if at(t).date() == day]
    kinds = {each["instrument_name"]: each["kind"] for each in months.instruments}
    wanted = Counter((parse(t["instrument_name"]).currency, kinds[t["instrument_name"]]) for t in truth)
    streams = report["streams"]
    assert {(s["currency"], s["kind"]): s["trades"] for s in streams if s["trades"]} == wanted
    assert sum(s["instruments"] for s in streams) == len({t["instrument_name"] for t in truth})
    assert sum(s["requests"] for s in streams) == sum("start_timestamp" in r.params for r in market.requests)
    for stream in streams:
        if stream["trades"] > 50:
            assert 100 < stream["wire_bytes"] / stream["trades"] < 900
            assert 10 < stream["rest_bytes"] / stream["trades"] < 300
    assert deribit_tables(clickhouse_client) == set()
    plan = json.loads(tape("cost", "plan", "--trades", "1000000", "--json").out)
    source = {each["name"]: each for each in plan["inputs"]}["trades_per_day"]
    assert (int(source["value"]), source["source"]) == (len(truth), f"measured: tape measure-volume, {day}")


def test_measure_volume_exits_with_1_for_missing_trades(
    market: SandboxExchange, months: Tape, tape: TapeCommand
) -> None:
    """The table has the number of trade_seq that were not received."""
    day = at(months.trades[-1]).date() - timedelta(1)
    of_day = [t for t in months.trades if at(t).date() == day and t["instrument_name"] == "BTC-PERPETUAL"]
    market.forget("BTC-PERPETUAL", [of_day[len(of_day) // 2]["trade_seq"]])
    done = tape("measure-volume", "--currency", "BTC", "--kind", "future")
    assert done.code == 1
    assert done.out.splitlines()[1].split()[:2] == ["BTC", "future"]
    assert done.out.splitlines()[1].split()[4] == "1"


@pytest.mark.slow
def test_poc_backfill_plans_runs_and_extrapolates_a_month(
    market: SandboxExchange, months: Tape, tape: TapeCommand, clickhouse_client: Client
) -> None:
    """Only the month is loaded, and its plan is close to the result; a second run loads nothing."""
    last_day = at(months.trades[-1]).date().replace(day=1) - timedelta(1)
    month = f"{last_day:%Y-%m}"
    truth = [t for t in months.trades if f"{at(t):%Y-%m}" == month]
    assert len(truth) > 1_000
    report = json.loads(tape("poc-backfill", "--month", month, "--json").out)
    assert report["fact"]["trades"] == len(truth)
    assert clickhouse_client.command("SELECT count() FROM deribit_raw.trades") == len(truth)
    for name in ("trades", "requests"):
        assert report["plan"][name] == pytest.approx(report["fact"][name], rel=0.2), name
    # A plan does not include the list of expired instruments, a quarter of the bytes for so few trades.
    assert 0.7 < report["plan"]["wire_bytes"] / report["fact"]["wire_bytes"] < 1
    year = report["extrapolated"]["a year of such months"]
    assert year["trades"] == 12 * len(truth)
    assert year["wire_bytes"] == pytest.approx(12 * report["fact"]["wire_bytes"], rel=0.001)
    assert set(report["extrapolated"]) == {"a year of such months", "btc-options", "everything"}
    again = tape("poc-backfill", "--month", month)
    assert "was left to fetch, so nothing can be extrapolated" in again.out


def test_cpu_seconds_include_ended_processes() -> None:
    """Page workers, for example, have ended after a run."""
    before = cpu_seconds()
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", busy], check=True)
    assert cpu_seconds() - before >= 0.3
