"""`tape cost egress`: an alarm by exit code, and never a silent one."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import boto3
import pytest

from tests.support.cloud_api import CloudApi, record
from tests.support.commands import Done

Tape = Callable[..., Done]


def put(gb: float) -> None:
    """So much left an instance yesterday."""
    noon = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(1)
    boto3.client("cloudwatch", region_name="us-west-2").put_metric_data(
        Namespace="AWS/EC2",
        MetricData=[
            {
                "MetricName": "NetworkOut",
                "Dimensions": [{"Name": "InstanceId", "Value": "i-1"}],
                "Timestamp": noon,
                "Value": gb * 1e9,
                "Unit": "Bytes",
            }
        ],
    )


@pytest.fixture
def both(cloud_api: CloudApi, moto: object) -> CloudApi:
    """10 GB by ClickHouse Cloud's charge, 2.5 GB by CloudWatch."""
    yesterday = datetime.now(UTC).date() - timedelta(1)
    cloud_api.records = [record(yesterday, computeCHC="3", publicDataTransferCHC="1.15")]
    put(2.5)
    return cloud_api


@pytest.mark.parametrize(("threshold", "code"), [("12.4", 1), ("12.5", 0), ("0", 1), ("50", 0)])
def test_the_alarm_is_an_exit_code(both: CloudApi, tape: Tape, threshold: str, code: int) -> None:
    told = tape("cost", "egress", "--threshold", threshold, "--json")
    assert told.code == code
    found = json.loads(told.out)
    assert (float(found["known_gb"]), found["is_over"]) == (12.5, bool(code))


def test_each_source_is_shown_with_what_it_rests_on(both: CloudApi, tape: Tape) -> None:
    """The price that turned a charge into GB, with its source and date."""
    said = tape("cost", "egress", "--threshold", "50").out
    rows = [line.split() for line in said.splitlines()]
    assert ["clickhouse,", "public", "data", "transfer", "10.000"] in rows
    assert ["aws,", "EC2", "in", "us-west-2", "2.500"] in rows
    assert "1.15 USD at 0.115 USD per GB (clickhouse.com/docs/cloud/manage/billing/overview" in said
    assert said.endswith("12.500 GB: not above the threshold of 50 GB.\n")


def test_below_with_a_part_unknown_is_2_and_above_is_1(both: CloudApi, tape: Tape) -> None:
    """What is known suffices for an alarm, not for the all-clear."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        assert tape("cost", "egress", "--threshold", "9").code == 1
        told = tape("cost", "egress", "--threshold", "50")
    assert told.code == 2
    assert ["aws", "unknown"] in [line.split() for line in told.out.splitlines()]
    assert "not above, as far as is known, the threshold" in told.out


def test_a_charge_without_a_known_price_is_an_unknown_volume(both: CloudApi, tape: Tape) -> None:
    yesterday = datetime.now(UTC).date() - timedelta(1)
    both.records.append(record(yesterday, computeCHC="0", interRegionTier4DataTransferCHC="2"))
    told = tape("cost", "egress", "--threshold", "50")
    assert told.code == 2
    assert "inter region tier 4 data transfer: 2.0 USD were charged" in told.out


@pytest.mark.parametrize("threshold", ["-1", "many", "NaN"])
def test_a_threshold_that_is_no_number_is_a_mistake(cloud_env: object, tape: Tape, threshold: str) -> None:
    assert tape("cost", "egress", "--threshold", threshold).code == 3
