"""`tape measure-volume`, `tape poc-backfill` and `tape cost plan` on a sandbox exchange and a real ClickHouse."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from extract.cost.measure.database_usage import measure_processor_time, measure_stored_bytes
from extract.cost.measure.month_backfill import cpu_seconds
from extract.estimate.store import save_measurement
from extract.pipeline.options import RunOptions
from extract.pipeline.run import run
from extract.sandbox.instrument_names import parse
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from harness import raw_tables
from tests.support.cloud_api import CloudApi, service
from tests.support.commands import Done

TapeCommand = Callable[..., Done]
DAYS = 40
TRADES = 16_000


@pytest.fixture(scope="module")
def months() -> Tape:
    """40 days across the end of a month."""
    return Tape.generate(seed=5, trades=TRADES, days=DAYS)


@pytest.fixture
def market(
    months: Tape,
    clickhouse_env: object,
    clean_clickhouse: object,
    cloud_env: pytest.MonkeyPatch,
) -> Iterator[SandboxExchange]:
    """A new user without a cloud account, and an exchange with the trades of `months`."""
    cloud_env.delenv("CLICKHOUSE_CLOUD_ORGANIZATION_ID")
    with SandboxExchange(months) as exchange:
        exchange.now_ms += 120_000
        cloud_env.setenv("SOURCES__DERIBIT__API_URL", exchange.url)
        cloud_env.setenv("SOURCES__DERIBIT__HISTORY_URL", exchange.history_url)
        cloud_env.setenv("SOURCES__DERIBIT__REQUESTS_PER_SECOND", "1000")
        yield exchange


def at(trade: dict[str, Any]) -> datetime:
    return datetime.fromtimestamp(trade["timestamp"] / 1000, UTC)


def tables(client: Client) -> set[str]:
    sql = "SELECT database || '.' || name FROM system.tables WHERE database LIKE 'deribit%'"
    return {name for (name,) in client.query(sql).result_rows}


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
    assert tables(clickhouse_client) == set()
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


@pytest.mark.parametrize(
    "words",
    [
        ("measure-volume", "--day", "2999-01-01"),
        ("measure-volume", "--day", "today"),
        ("poc-backfill", "--month", "2999-01"),
        ("poc-backfill", "--month", "June"),
        ("cost", "plan", "--trades", "5", "--since", "7d"),
        ("cost", "plan", "--trades", "5", "--set", "idle_minutes=long"),
    ],
)
def test_impossible_options_are_usage_errors(
    market: SandboxExchange, tape: TapeCommand, words: tuple[str, ...]
) -> None:
    done = tape(*words)
    assert (done.code, done.out) == (3, "")


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


def test_plan_uses_measurements_of_this_database(
    market: SandboxExchange, tape: TapeCommand, clickhouse_client: Client, clickhouse_env: Any
) -> None:
    """Bytes of each table from system.parts, and processor seconds from the query log."""
    raw_tables.create_raw_database(clickhouse_client)
    raw_tables.load(clickhouse_client, "1764000000.5", raw_trades(20_000))
    clickhouse_client.command("CREATE DATABASE deribit")
    clickhouse_client.command(
        "CREATE TABLE deribit.trade_versions ENGINE = MergeTree ORDER BY trade_seq "
        "AS SELECT trade_seq FROM deribit_raw.trades"
    )
    clickhouse_client.command("SYSTEM FLUSH LOGS")
    sizes = dict(
        clickhouse_client.query(
            "SELECT database || '.' || table, sum(bytes_on_disk) FROM system.parts "
            "WHERE active AND database LIKE 'deribit%' GROUP BY 1"
        ).result_rows
    )
    plan = json.loads(tape("cost", "plan", "--trades", "20000", "--json").out)
    rest = plan["backfill"]["rest_bytes"]
    sizes["deribit_raw._dlt"] = sizes.pop("deribit_raw._dlt_loads")
    assert set(rest) == set(sizes)
    for table, size in sizes.items():
        assert float(rest[table]) == pytest.approx(size, abs=20_000 * 0.006), table
    assert any("system.parts, 20,000 trades" in each["source"] for each in plan["inputs"])
    at_rest = measure_stored_bytes(clickhouse_env)
    assert at_rest is not None
    assert at_rest.trades == 20_000
    done = measure_processor_time(clickhouse_env, min_trades=20_000)
    assert done is not None
    assert done.raw_s_per_million > 0


def raw_trades(count: int) -> list[dict[str, Any]]:
    """Options of one instrument, a second apart."""
    return [
        {
            "trade_seq": seq,
            "trade_id": str(seq),
            "timestamp": 1_764_000_000_000 + seq * 1000,
            "instrument_name": "BTC-26DEC25-100000-C",
            "price": 0.03,
            "amount": 1.0,
            "direction": "buy",
            "tick_direction": 0,
            "index_price": 90_000.0,
            "mark_price": 0.03,
            "currency": "BTC",
            "kind": "option",
        }
        for seq in range(1, count + 1)
    ]


def test_every_input_is_shown_and_has_an_effect(cloud_env: pytest.MonkeyPatch, tape: TapeCommand) -> None:
    """Without a database all of them are assumed; each `--set` changes the estimate."""
    cloud_env.setenv("CLICKHOUSE_LOCAL_PORT", "9")
    cloud_env.delenv("CLICKHOUSE_CLOUD_ORGANIZATION_ID")
    done = tape("cost", "plan", "--scope", "btc-options").out
    assert "is not running; start it: make up" in done
    words = ("cost", "plan", "--scope", "btc-options", "--json", "--set", "egress_gb=1")
    plan = json.loads(tape(*words).out)
    for each in plan["inputs"]:
        assert f"\n{each['name']} " in done
        assert each["source"].startswith(("assumed: ", "price: ", "[sources", "not sampled", "set by you"))
        changed = str(Decimal(each["value"]) * 3 + 7)
        other = json.loads(tape(*words, "--set", f"{each['name']}={changed}").out)
        [now] = [one for one in other["inputs"] if one["name"] == each["name"]]
        assert (Decimal(now["value"]), now["source"]) == (Decimal(changed), "set by you")
        figures = ("backfill", "holding", "increments")
        if each["name"] != "host_disk_gb":  # a larger disk changes nothing for what fits already
            assert [other[name] for name in figures] != [plan[name] for name in figures], each["name"]


def test_plan_uses_settings_of_the_cloud_service(cloud_api: CloudApi, tape: TapeCommand) -> None:
    """Those of the service at CLICKHOUSE_CLOUD_HOST, or of the only one; otherwise a note says that they are assumed."""
    words = ("cost", "plan", "--trades", "1000000", "--json")
    cloud_api.services = [service("a", 7, 2), service("b", 30, 1)]

    def service_inputs() -> tuple[str, str, list[str]]:
        plan = json.loads(tape(*words).out)
        inputs = {each["name"]: each["value"] for each in plan["inputs"]}
        return inputs["idle_minutes"], inputs["compute_units"], [n for n in plan["notes"] if "idl" in n]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLICKHOUSE_LOCAL_PORT", "9")
        assert service_inputs() == (
            "15",
            "1",
            [
                "Size and idling of the cloud service are assumed: None of 2 services is at CLICKHOUSE_CLOUD_HOST."
            ],
        )
        patch.setenv("CLICKHOUSE_CLOUD_HOST", "a.us-west-2.aws.clickhouse.cloud")
        assert service_inputs() == ("7", "2.0", [])
        patch.delenv("CLICKHOUSE_CLOUD_HOST")
        cloud_api.services = [service("b", 30, 1, idle_scaling=False)]
        minutes, units, [note] = service_inputs()
        assert (minutes, units) == ("30", "1.0")
        assert note.startswith("Service b never idles")
        patch.setenv("CLICKHOUSE_CLOUD_API_KEY_ID", "another")
        minutes, _, [note] = service_inputs()
        assert minutes == "15"
        assert note.startswith(
            "Size and idling of the cloud service are assumed: ClickHouse Cloud rejects the API key"
        )


def test_plan_measures_bytes_of_sampled_trades(
    market: SandboxExchange, tape: TapeCommand, clickhouse_client: Client
) -> None:
    """It measures before anything is loaded, and is within a fifth of the bytes at rest after the run."""
    plan = json.loads(tape("cost", "plan", "--json").out)
    sources = {each["name"]: each["source"] for each in plan["inputs"]}
    assert "sampled trades, inserted into a temporary table" in sources["bytes.deribit_raw.trades"]
    assert tables(clickhouse_client) == set()
    other = json.loads(tape("cost", "plan", "--set", "trades=1000000", "--json").out)["backfill"]
    assert (other["trades"], other["requests"]) == (
        "1000000",
        "118",
    )  # of the trades that were set
    run(RunOptions())
    sql = "SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database = 'deribit_raw' AND table = 'trades'"
    fact = clickhouse_client.command(sql)
    assert float(plan["backfill"]["rest_bytes"]["deribit_raw.trades"]) == pytest.approx(fact, rel=0.2)


@pytest.mark.parametrize(
    ("requests", "source"),
    [
        (790, "measured: tape poc-backfill, 2026-10"),
        (810, "assumed: "),  # it waited for the limit of 10 requests a second for 81 of its 100 seconds
    ],
)
def test_speed_of_a_rate_limited_month_is_not_used(
    cloud_env: pytest.MonkeyPatch, tape: TapeCommand, requests: int, source: str
) -> None:
    cloud_env.setenv("CLICKHOUSE_LOCAL_PORT", "9")
    cloud_env.delenv("CLICKHOUSE_CLOUD_ORGANIZATION_ID")
    figures = {"month": "2026-10", "trades": 700_000, "requests": requests, "requests_per_second": 10}
    save_measurement("backfill", {**figures, "seconds": 100})
    plan = json.loads(tape("cost", "plan", "--trades", "1000000", "--json").out)
    [rate] = [each for each in plan["inputs"] if each["name"] == "fetch_trades_per_second"]
    assert rate["source"].startswith(source)
    assert (rate["value"] == "7000") == (requests == 790)


def test_speed_of_a_short_backfill_is_not_used(cloud_env: pytest.MonkeyPatch, tape: TapeCommand) -> None:
    """The start of a run takes too large a part of its time; a hundred thousand trades are enough."""
    cloud_env.setenv("CLICKHOUSE_LOCAL_PORT", "9")
    cloud_env.delenv("CLICKHOUSE_CLOUD_ORGANIZATION_ID")
    month = {"month": "2026-10", "requests": 10, "requests_per_second": 10, "seconds": 100}
    for trades, source in ((99_999, "assumed: "), (100_000, "measured: tape poc-backfill, 2026-10")):
        save_measurement("backfill", month | {"trades": trades})
        plan = json.loads(tape("cost", "plan", "--trades", "1000000", "--json").out)
        [rate] = [each for each in plan["inputs"] if each["name"] == "fetch_trades_per_second"]
        assert rate["source"].startswith(source)


@pytest.mark.parametrize(
    ("words", "is_measured"),
    [
        (("--trades", "1000000"), True),
        (("--scope", "everything"), False),
        (("--trades", "1000000", "--assume"), False),
    ],
)
def test_measured_day_is_used_unless_a_scope_or_only_assumptions_are_requested(
    cloud_env: pytest.MonkeyPatch, tape: TapeCommand, words: tuple[str, ...], is_measured: bool
) -> None:
    """5,000 trades of 1,000,000 bytes were measured; a scope has a volume that is given."""
    cloud_env.setenv("CLICKHOUSE_LOCAL_PORT", "9")
    cloud_env.delenv("CLICKHOUSE_CLOUD_ORGANIZATION_ID")
    save_measurement("volume", {"day": "2026-10-31", "trades": 5_000, "wire_bytes": 1_000_000})
    inputs = {each["name"]: each for each in json.loads(tape("cost", "plan", *words, "--json").out)["inputs"]}
    for name, value in (("trades_per_day", 5_000), ("wire_bytes_per_trade", 200)):
        source = inputs[name]["source"]
        assert (source == "measured: tape measure-volume, 2026-10-31") is is_measured, name
        assert (Decimal(inputs[name]["value"]) == value) is is_measured, name


@pytest.mark.parametrize("command", ["baseline", "egress", "plan"])
def test_help_of_each_command_has_an_example(tape: TapeCommand, command: str) -> None:
    assert f"Example: tape cost {command}" in tape("cost", command, "--help").out


def test_cpu_seconds_include_ended_processes() -> None:
    """Page workers, for example, have ended after a run."""
    before = cpu_seconds()
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", busy], check=True)
    assert cpu_seconds() - before >= 0.3
