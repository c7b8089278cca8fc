"""`tape cost plan`: what it measures, what it assumes, and options of the cost commands."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from extract.cost.measure.database_usage import measure_processor_time, measure_stored_bytes
from extract.cost.plan.estimate import COMPONENTS
from extract.estimate.store import save_measurement
from extract.pipeline.run import run
from extract.sandbox.server import SandboxExchange
from extract.source.options import RunOptions
from harness import raw_tables
from tests.support.clickhouse import deribit_tables
from tests.support.cloud_api import CloudApi, service
from tests.support.commands import Done

TapeCommand = Callable[..., Done]


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


@pytest.mark.parametrize("setting", ["cloud, on demand", "cloud, always on"])
def test_components_add_up_to_the_totals(
    cloud_env: pytest.MonkeyPatch, tape: TapeCommand, setting: str
) -> None:
    """In whole cents: each column of the table has the total that the other tables show."""
    words = ("cost", "plan", "--scope", "everything", "--assume", "--set", "egress_gb=0.33")
    done = tape(*words).out
    table = done.split(f"USD by component, {setting}", 1)[1].split("\n\n", 1)[0].splitlines()[1:]
    rows = {name: figures for name, *figures in (re.split(r"\s{2,}", line) for line in table)}
    assert [*rows] == [*COMPONENTS, "total"]
    plan = json.loads(tape(*words, "--json").out)
    parts = [plan["backfill"], plan["holding"], *plan["increments"]]
    for column, part in enumerate(parts):
        cents = [Decimal(figures[column]) for figures in rows.values()]
        assert sum(cents[:-1]) == cents[-1]
        assert cents[-1] == round(Decimal(part["usd"][setting]), 2)
        exact = [Decimal(usd) for usd in part["components"][setting].values()]
        assert sum(exact) == pytest.approx(Decimal(part["usd"][setting]))


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


@pytest.mark.slow
def test_plan_measures_bytes_of_sampled_trades(
    market: SandboxExchange, tape: TapeCommand, clickhouse_client: Client
) -> None:
    """It measures before anything is loaded, and is within a fifth of the bytes at rest after the run."""
    plan = json.loads(tape("cost", "plan", "--json").out)
    sources = {each["name"]: each["source"] for each in plan["inputs"]}
    assert "sampled trades, inserted into a temporary table" in sources["bytes.deribit_raw.trades"]
    assert deribit_tables(clickhouse_client) == set()
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
