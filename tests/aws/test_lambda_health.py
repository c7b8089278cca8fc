"""AWS Lambda publishes the health checks as CloudWatch metrics."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import boto3
import click
import pytest
from clickhouse_connect.driver.client import Client

from extract.aws.lambda_health import metrics, run_checks_with
from extract.clickhouse.settings import ClickHouseSettings
from extract.errors import UsageError
from extract.health.thresholds import State
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from tests.aws.conftest import Machine
from tests.aws.test_alarms import alarms_of_checks
from tests.support.edge import needs_caddy


def test_metrics_count_each_state_and_hold_the_state_of_each_check() -> None:
    """A state without checks counts 0; the more serious a state, the larger its number."""
    lines = [
        {"check": "raw", "state": "alarm", "value": 7200, "unit": "seconds", "text": ""},
        {"check": "marts", "state": "unknown", "value": None, "unit": "seconds", "text": ""},
    ]
    counts = {each["MetricName"]: each["Value"] for each in metrics(lines) if "Dimensions" not in each}
    assert counts == {"Fine": 0, "Warnings": 0, "Alarms": 1, "Unknown": 1}
    states = {each["Dimensions"][0]["Value"]: each["Value"] for each in metrics(lines)[len(counts) :]}
    assert states == {"raw": 3, "marts": 2}


def test_options_of_tape_health_set_the_limits(
    clean_clickhouse: ClickHouseSettings, clickhouse_env: ClickHouseSettings
) -> None:
    """Parsed as on the command line; the checks themselves are called directly."""
    disk = {check.check: check.state for check in run_checks_with(["--disk", "101:100.5"])}["disk"]
    assert disk is State.ALARM
    with pytest.raises(UsageError, match="--raw 'soon'"):
        run_checks_with(["--raw", "soon"])
    with pytest.raises(click.UsageError, match="--nope"):
        run_checks_with(["--nope"])


@pytest.mark.slow
@needs_caddy
def test_health_of_the_cloud_is_published(
    machine: Machine, start_exchange: Callable[..., SandboxExchange], cloud: Client, tape: Tape
) -> None:
    """The tape ends in the past and the certificates expire tomorrow: alarms; without models `marts` is unknown."""
    machine.at(start_exchange(tape))
    with machine.function() as function:
        assert function.invoke()["status"] == "done"
    with machine.function("extract.aws.lambda_health.lambda_handler") as function:
        counts = function.invoke(options=["--raw", "3h:6h"])
        failed = function.invoke(options=["--raw", "soon"])
    assert counts["Alarms"] >= 2
    assert counts["Unknown"] >= 1
    assert "--raw 'soon'" in failed["errorMessage"]
    at = {
        "StartTime": datetime.now(UTC) - timedelta(hours=1),
        "EndTime": datetime.now(UTC) + timedelta(hours=1),
    }

    def published(name: str, **dimensions: str) -> float:
        statistics = boto3.client("cloudwatch").get_metric_statistics(
            Namespace="DeribitTape",
            MetricName=name,
            Dimensions=[{"Name": key, "Value": value} for key, value in dimensions.items()],
            Period=7200,
            Statistics=["Maximum"],
            **at,
        )
        return max(point["Maximum"] for point in statistics["Datapoints"])

    assert published("Alarms") == counts["Alarms"]
    assert published("State", check="raw") == published("State", check="certificates") == 3
    assert published("State", check="marts") == 2
    listed = boto3.client("cloudwatch").list_metrics(Namespace="DeribitTape", MetricName="State")["Metrics"]
    assert {each["Dimensions"][0]["Value"] for each in listed} <= alarms_of_checks().keys()
    [values] = [json.loads(line) for line in machine.output.splitlines() if line.startswith('{"values"')]
    assert values["values"]["raw"] > 6 * 3600
    assert values["values"]["certificates"] < 7
