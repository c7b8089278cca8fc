"""AWS Lambda: the results of `tape health` as CloudWatch metrics, which the alarms of `deploy/aws` watch.

A metric is charged by the month, a line of the log hardly: the state of each check is a metric, its value is logged.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import boto3
import click

from extract.aws.lambda_increment import InvocationFailedError
from extract.aws.workspace import temporary_workspace
from extract.cli.health import health as health_command
from extract.coverage.gaps import Scope
from extract.errors import TapeError
from extract.health.checks import Check, run_checks
from extract.health.thresholds import State, Thresholds

NAMESPACE = "DeribitTape"
METRICS = {"ok": "Fine", "warn": "Warnings", "alarm": "Alarms", "unknown": "Unknown"}
"""Metric that counts the checks of each state."""
STATE_METRIC, DIMENSION = "State", "check"
"""Metric of one check, 0 to 3: ok, warn, unknown, alarm."""


def lambda_handler(event: dict[str, Any] | None, context: Any) -> dict[str, int]:
    """Publish the number of checks in each state, and the state of each check. Returns the numbers.

    `event` may hold options of `tape health`: {"options": ["--raw", "3h:6h"]}. An alarm is not a failed invocation: the
    CloudWatch alarm on the metric reports it. Raises InvocationFailedError for a wrong option, or without a database.
    """
    try:
        with temporary_workspace() as env:
            lines = [check.to_json() for check in run_checks_with((event or {}).get("options", ()), env)]
    except click.ClickException as error:
        raise InvocationFailedError(error.format_message()) from None
    except TapeError as error:
        raise InvocationFailedError(str(error)) from None
    for line in lines:
        print(json.dumps(line))
    print(json.dumps({"values": {line["check"]: line["value"] for line in lines}}))
    boto3.client("cloudwatch").put_metric_data(Namespace=NAMESPACE, MetricData=metrics(lines))
    return count_states(lines)


def run_checks_with(options: Sequence[str], env: Mapping[str, str] = os.environ) -> list[Check]:
    """Run the checks with the limits and the scope that `options` of `tape health` name."""
    values = health_command.make_context("health", list(options)).params
    scope = Scope.of(values.pop("currencies"), values.pop("kinds"))
    values = {name: value for name, value in values.items() if name in Thresholds.__dataclass_fields__}
    return run_checks(Thresholds(**values), scope, env)


def count_states(lines: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Number of checks in each state, by metric; 0 included."""
    states = Counter(line["state"] for line in lines)
    return {name: states[state] for state, name in METRICS.items()}


def metrics(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Metric data: the counts, and the state of each check."""
    counts = [
        {"MetricName": name, "Value": count, "Unit": "Count"} for name, count in count_states(lines).items()
    ]
    states = [
        {
            "MetricName": STATE_METRIC,
            "Dimensions": [{"Name": DIMENSION, "Value": line["check"]}],
            "Value": int(State[line["state"].upper()]),
        }
        for line in lines
    ]
    return [*counts, *states]
