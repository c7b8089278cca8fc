"""AWS Lambda: the lines of `tape health` as CloudWatch metrics, on which the alarms of `deploy/aws` stand."""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import boto3
import click

from extract.aws.lambda_increment import InvocationFailedError
from extract.aws.workspace import temporary_workspace
from extract.cli.main import tape
from extract.clickhouse.settings import ClickHouseSettings
from extract.errors import TapeError

NAMESPACE = "DeribitTape"
METRICS = {"ok": "Fine", "warn": "Warnings", "alarm": "Alarms", "unknown": "Unknown"}
"""By the state of a check the metric that counts it."""

Line = Mapping[str, Any]


def lambda_handler(event: dict[str, Any] | None, context: Any) -> dict[str, int]:
    """Publishes how many checks there are of each state, and each check's value. Returns the counts.

    `event` may hold words for `tape health`: {"options": ["--raw", "3h:6h"]}. An alarm is no failed invocation: the
    alarm of CloudWatch on the metric says it.
    """
    try:
        with temporary_workspace() as settings, _in_environment(settings):
            lines = health_lines((event or {}).get("options", ()))
    except click.ClickException as error:
        raise InvocationFailedError(error.format_message()) from None
    except TapeError as error:
        raise InvocationFailedError(str(error)) from None
    for line in lines:
        print(json.dumps(line))
    boto3.client("cloudwatch").put_metric_data(Namespace=NAMESPACE, MetricData=metrics(lines))
    return counted(lines)


def health_lines(options: Sequence[str] = ()) -> list[Line]:
    """What `tape health --json` says."""
    said = io.StringIO()
    with redirect_stdout(said):
        tape.main(["health", "--json", *options], standalone_mode=False)
    return json.loads(said.getvalue())


@contextmanager
def _in_environment(settings: ClickHouseSettings) -> Iterator[None]:
    """`tape health` looks at the environment, at the certificates named there too. Nothing is started in it."""
    names = {
        "CLICKHOUSE_MODE": settings.mode,
        "CLICKHOUSE_CLOUD_HOST": settings.host,
        "CLICKHOUSE_CLOUD_PORT": str(settings.port),
        "CLICKHOUSE_CLOUD_USER": settings.user,
        "CLICKHOUSE_CLOUD_PASSWORD": settings.password,
        "CLICKHOUSE_CLOUD_CA_CERT": settings.ca_cert or "",
        "CLICKHOUSE_CLOUD_CLIENT_CERT": settings.client_cert or "",
        "CLICKHOUSE_CLOUD_CLIENT_KEY": settings.client_key or "",
    }
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def counted(lines: Iterable[Line]) -> dict[str, int]:
    """How many checks there are of each state; 0 is said too."""
    states = Counter(line["state"] for line in lines)
    return {name: states[state] for state, name in METRICS.items()}


def metrics(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """The counts, and the value of each check that has one."""
    counts = [{"MetricName": name, "Value": count, "Unit": "Count"} for name, count in counted(lines).items()]
    values = [
        {
            "MetricName": "Value",
            "Dimensions": [{"Name": "check", "Value": line["check"]}],
            "Value": float(line["value"]),
        }
        for line in lines
        if line["value"] is not None
    ]
    return [*counts, *values]
