"""The alarms and the dashboard of `deploy/aws` cover each check of `tape health` that is made on AWS."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3

from extract.aws.lambda_health import DIMENSION, METRICS, NAMESPACE, STATE_METRIC, metrics
from extract.health.thresholds import LOCAL_CHECKS, limit_fields
from extract.paths import ROOT
from tests.support.cloudformation import of_type, resources, text

PREFIX = "deribit-tape-"
CHECKS = [name for name in limit_fields() if name not in LOCAL_CHECKS]
BREACHES = {
    "GreaterThanThreshold": operator.gt,
    "GreaterThanOrEqualToThreshold": operator.ge,
    "LessThanThreshold": operator.lt,
}
HOUR = timedelta(hours=1)


def alarms() -> dict[str, dict[str, Any]]:
    """Properties of each alarm, by its name without the prefix."""
    return {text(each["AlarmName"]).removeprefix(PREFIX): each for each in of_type("AWS::CloudWatch::Alarm")}


def alarms_of_checks() -> dict[str, dict[str, Any]]:
    """Properties of the alarm that watches the state of a check, by the name of the check."""
    return {
        each["Dimensions"][0]["Value"]: each
        for each in alarms().values()
        if each["MetricName"] == STATE_METRIC
    }


def test_each_check_has_an_alarm_and_each_alarm_a_check() -> None:
    """Named after the check, with its section of the runbooks, in the order of `tape health`."""
    by_check = alarms_of_checks()
    assert list(by_check) == CHECKS
    for check, alarm in by_check.items():
        assert text(alarm["AlarmName"]) == f"{PREFIX}check-{check}"
        assert f"docs/runbooks.md#{check}" in text(alarm["AlarmDescription"])


def test_sections_that_alarms_name_exist() -> None:
    sections = re.findall(r"^## (\S+)$", (ROOT / "docs/runbooks.md").read_text(), re.MULTILINE)
    for alarm in alarms().values():
        description = text(alarm["AlarmDescription"])
        assert "docs/runbooks.md" in description or "deploy/aws/README.md" in description
        assert set(re.findall(r"runbooks\.md#([\w-]+)", description)) <= set(sections)


def test_alarms_report_when_they_fire_and_when_they_end() -> None:
    """With the topic of the e-mail address."""
    for alarm in alarms().values():
        assert alarm["AlarmActions"] == alarm["OKActions"] == [{"Ref": "Alarms"}]


def test_alarms_of_the_functions_watch_their_metrics() -> None:
    """Failures, silence, and 80 % of the timeout."""
    functions = {name: each for name, each in alarms().items() if each["Namespace"] == "AWS/Lambda"}
    assert {each["MetricName"] for each in functions.values()} == {"Errors", "Invocations", "Duration"}
    timeout_ms = 1000 * resources()["Increment"]["Properties"]["Timeout"]
    assert functions["increment-slow"]["Threshold"] == 0.8 * timeout_ms


def test_missing_data_alarms_only_while_health_is_scheduled() -> None:
    """An alarm that treats missing data as breaching exists only together with the schedule."""
    silent = [
        each for each in resources().values() if each["Properties"].get("TreatMissingData") == "breaching"
    ]
    assert [text(each["Properties"]["AlarmName"]) for each in silent] == [
        f"{PREFIX}health-silent",
        f"{PREFIX}increment-silent",
    ]
    assert [each.get("Condition") for each in silent] == ["IsScheduled"] * 2


def test_alarm_fires_on_its_check_only(aws_env: dict[str, str]) -> None:
    """On CloudWatch of moto: hour after hour, one check alarms, the next one warns, and the one after is unknown.

    Each alarm that the template has of these metrics is created there and compared with what was published.
    """
    cloudwatch = boto3.client("cloudwatch")
    watched = {name: each for name, each in alarms().items() if each["Namespace"] == NAMESPACE}
    for alarm in watched.values():
        cloudwatch.put_metric_alarm(**resolved(alarm))
    start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - 40 * HOUR
    for hour in range(len(CHECKS)):
        states = dict.fromkeys(CHECKS, "ok")
        for after, state in enumerate(("alarm", "warn", "unknown")):
            states[CHECKS[(hour + after) % len(CHECKS)]] = state
        data = metrics([{"check": check, "state": state} for check, state in states.items()])
        at = start + hour * HOUR
        cloudwatch.put_metric_data(
            Namespace=NAMESPACE, MetricData=[each | {"Timestamp": at} for each in data]
        )
    created = {each["AlarmName"]: each for each in cloudwatch.describe_alarms()["MetricAlarms"]}
    hours = range(len(CHECKS) + 1)  # nothing was published in the last one
    fired = {name: breaching_hours(created[PREFIX + name], start, hours) for name in watched}
    assert fired == {f"check-{check}": [hour] for hour, check in enumerate(CHECKS)} | {
        "health-silent": [len(CHECKS)],
        "health-unknown": [*range(len(CHECKS))],
    }


def resolved(alarm: dict[str, Any]) -> dict[str, Any]:
    """Arguments of PutMetricAlarm from the properties in the template."""
    values = {"HealthPeriod": 3600, "Alarms": "arn:aws:sns:us-west-2:123456789012:alarms"}

    def value(of: Any) -> Any:
        if isinstance(of, list):
            return [value(each) for each in of]
        if isinstance(of, dict) and "Ref" in of:
            return values[of["Ref"]]
        return text(of) if isinstance(of, dict) and "Fn::Sub" in of else of

    return {name: value(each) for name, each in alarm.items()}


def breaching_hours(alarm: dict[str, Any], start: datetime, hours: Sequence[int]) -> list[int]:
    """Hours in which the statistic of an alarm reaches its threshold, or is missing where that counts."""
    points = boto3.client("cloudwatch").get_metric_statistics(
        Namespace=alarm["Namespace"],
        MetricName=alarm["MetricName"],
        Dimensions=alarm["Dimensions"],
        Statistics=[alarm["Statistic"]],
        Period=alarm["Period"],
        StartTime=start,
        EndTime=start + len(hours) * HOUR,
    )["Datapoints"]
    values = {(each["Timestamp"] - start) // HOUR: each[alarm["Statistic"]] for each in points}
    breaches = BREACHES[alarm["ComparisonOperator"]]
    return [
        hour
        for hour in hours
        if (
            breaches(values[hour], alarm["Threshold"])
            if hour in values
            else alarm["TreatMissingData"] == "breaching"
        )
    ]


def test_dashboard_shows_every_check_alarm_and_metric(aws_env: dict[str, str]) -> None:
    """State and value of each check in exactly one widget each, and each alarm; within the limits of a free dashboard."""
    [dashboard] = of_type("AWS::CloudWatch::Dashboard")
    body = re.sub(r"\$\{[\w:]+\}", "x", dashboard["DashboardBody"]["Fn::Sub"][0].replace("${Prefix}", PREFIX))
    widgets = json.loads(body)["widgets"]
    [strip] = [each["properties"]["alarms"] for each in widgets if each["type"] == "alarm"]
    assert sorted(strip) == sorted(PREFIX + name for name in alarms())
    series = [each for widget in widgets for each in widget["properties"].get("metrics", ())]
    shown = [each[-1] for each in series if DIMENSION in each or each[0] == "..."]
    assert shown == CHECKS
    assert {each[1] for each in series if len(each) == 2 and each[0] in (NAMESPACE, ".")} == set(
        METRICS.values()
    )
    assert len(series) <= 50
    queries = [each["properties"]["query"] for each in widgets if each["type"] == "log"]
    values = [name for query in queries for name in re.findall(r"max\(`values\.([\w-]+)`\)", query)]
    assert sorted(values) == sorted(CHECKS)
    boto3.client("cloudwatch").put_dashboard(DashboardName="deribit-tape", DashboardBody=body)
