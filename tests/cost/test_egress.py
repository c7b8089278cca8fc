"""`tape cost egress`: an alarm by exit code, which unknown sources never suppress."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import boto3
import pytest

from tests.support.cloud_api import CloudApi, record
from tests.support.commands import Done

Tape = Callable[..., Done]


def put_network_out(gb: float) -> None:
    """Record that an instance sent `gb` GB yesterday."""
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
    put_network_out(2.5)
    return cloud_api


@pytest.mark.parametrize(("threshold", "code"), [("12.4", 1), ("12.5", 0), ("0", 1), ("50", 0)])
def test_exit_code_is_1_above_the_threshold(both: CloudApi, tape: Tape, threshold: str, code: int) -> None:
    done = tape("cost", "egress", "--threshold", threshold, "--json")
    assert done.code == code
    egress = json.loads(done.out)
    assert (float(egress["known_gb"]), egress["is_over"]) == (12.5, bool(code))


def test_table_shows_each_source_with_its_price(both: CloudApi, tape: Tape) -> None:
    """The price by which a charge was divided, with its source and date."""
    output = tape("cost", "egress", "--threshold", "50").out
    rows = [line.split() for line in output.splitlines()]
    assert ["clickhouse,", "public", "data", "transfer", "10.000"] in rows
    assert ["aws,", "EC2", "in", "us-west-2", "2.500"] in rows
    assert "1.15 USD at 0.115 USD per GB (clickhouse.com/docs/cloud/manage/billing/overview" in output
    assert output.endswith("12.500 GB: not above the threshold of 50 GB.\n")


def test_exit_code_with_an_unknown_source_is_1_above_and_2_below(both: CloudApi, tape: Tape) -> None:
    """Known sources are sufficient for an alarm, but not for exit code 0."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        assert tape("cost", "egress", "--threshold", "9").code == 1
        done = tape("cost", "egress", "--threshold", "50")
    assert done.code == 2
    assert ["aws", "unknown"] in [line.split() for line in done.out.splitlines()]
    assert "not above, as far as is known, the threshold" in done.out


def test_charge_without_a_price_is_an_unknown_volume(both: CloudApi, tape: Tape) -> None:
    yesterday = datetime.now(UTC).date() - timedelta(1)
    both.records.append(record(yesterday, computeCHC="0", interRegionTier4DataTransferCHC="2"))
    done = tape("cost", "egress", "--threshold", "50")
    assert done.code == 2
    assert "inter region tier 4 data transfer: 2.0 USD were charged" in done.out


@pytest.mark.parametrize("threshold", ["-1", "many", "NaN"])
def test_invalid_threshold_is_a_usage_error(cloud_env: object, tape: Tape, threshold: str) -> None:
    assert tape("cost", "egress", "--threshold", threshold).code == 3
