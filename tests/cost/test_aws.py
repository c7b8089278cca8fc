"""Bills from a strict Cost Explorer with pages and from moto; metrics of CloudWatch from moto."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import boto3
import pytest

from extract.cost.billing.aws import BY_COMPONENT, PROJECT_TAG, Aws
from extract.cost.billing.charges import Days
from extract.cost.billing.money import total
from extract.errors import CannotTellError, FinalError, ProofError, RetriableError, TapeError, UsageError
from tests.cost.test_egress import put_network_out
from tests.support.cost_explorer import CostExplorer, Item

JULY = Days(date(2026, 7, 30), date(2026, 8, 2))
PROJECT_TAGS = (("component", "increment"), ("project", "deribit-tape"))
ITEMS = [
    Item(date(2026, 7, 29), "AWS Lambda", "USW2-Request", "100"),
    Item(date(2026, 7, 30), "AWS Lambda", "USW2-Lambda-GB-Second", "0.0101516483", tags=PROJECT_TAGS),
    Item(date(2026, 7, 31), "AWS Lambda", "USW2-Lambda-GB-Second", "0.0201516483", tags=PROJECT_TAGS),
    Item(date(2026, 7, 31), "AWS Secrets Manager", "USW2-AWSSecretsManager-Secrets", "0.4"),
    Item(date(2026, 8, 2), "EC2 - Other", "USW2-DataTransfer-Out-Bytes", "1.5", estimated=True),
    Item(date(2026, 8, 2), "AWS Lambda", "USW2-Lambda-GB-Second", "-0.005"),
    Item(date(2026, 8, 3), "AWS Lambda", "USW2-Request", "100"),
]


def test_bill_adds_all_pages_across_a_month_end(cost_explorer: CostExplorer) -> None:
    """First and last day are included, adjacent days are not; credits are negative; requests are counted."""
    cost_explorer.items = ITEMS
    cost_explorer.page = 2
    account = Aws()
    charges = account.bill(JULY)
    assert total(charge.usd for charge in charges) == Decimal("1.9253032966")
    assert {charge.kind for charge in charges if charge.open_usd} == {"USW2-DataTransfer-Out-Bytes"}
    assert account.requests == cost_explorer.pages == 3


def test_bill_by_component_tag_and_by_project_tag(cost_explorer: CostExplorer) -> None:
    """Tags as the deployment sets them; untagged charges are `no component`; a tag without charges is not a bill of 0."""
    cost_explorer.items = ITEMS
    kinds = {(charge.service, charge.kind) for charge in Aws().bill(JULY, BY_COMPONENT)}
    assert kinds == {
        ("AWS Lambda", "increment"),
        ("AWS Lambda", "no component"),
        ("AWS Secrets Manager", "no component"),
        ("EC2 - Other", "no component"),
    }
    tagged = Aws().bill(JULY, BY_COMPONENT, PROJECT_TAG)
    assert [charge.usd for charge in tagged] == [Decimal("0.0101516483"), Decimal("0.0201516483")]
    with pytest.raises(CannotTellError, match="cost allocation tag"):
        Aws().bill(JULY, BY_COMPONENT, ("project", "another"))


def test_incomplete_response_is_an_error(cost_explorer: CostExplorer) -> None:
    """A missing day, another currency, pages that do not end."""
    cost_explorer.items = ITEMS
    cost_explorer.leave_out = date(2026, 8, 1)
    with pytest.raises(CannotTellError, match="3 of the 4 days requested; 2026-08-01 is missing"):
        Aws().bill(JULY)
    cost_explorer.leave_out = None
    cost_explorer.unit = "CNY"
    with pytest.raises(CannotTellError, match="CNY"):
        Aws().bill(JULY)
    cost_explorer.unit = "USD"
    cost_explorer.page = 1
    cost_explorer.loop = True
    with pytest.raises(ProofError, match="do not end"):
        Aws().bill(JULY)


def cost_result(day: date, usd: str, token: str | None = None) -> dict[str, Any]:
    period = {"Start": str(day), "End": str(day + timedelta(1))}
    group = {"Keys": ["AWS Lambda", "Request"], "Metrics": {"UnblendedCost": {"Amount": usd, "Unit": "USD"}}}
    result: dict[str, Any] = {
        "ResultsByTime": [{"TimePeriod": period, "Total": {}, "Groups": [group], "Estimated": False}],
        "DimensionValueAttributes": [],
    }
    return result | ({"NextPageToken": token} if token else {})


def test_pages_of_moto_are_followed(moto: Callable[[list[dict[str, Any]]], None]) -> None:
    """moto returns the planted results in turn, then a response without days, which is not a bill of 0."""
    first = date(2026, 7, 31)
    moto([cost_result(first, "0.01", "more"), cost_result(first + timedelta(1), "0.02")])
    account = Aws()
    charges = account.bill(Days(first, first + timedelta(1)))
    assert total(charge.usd for charge in charges) == Decimal("0.03")
    assert account.requests == 2
    with pytest.raises(CannotTellError, match="0 of the 4 days"):
        Aws().bill(JULY)


def test_network_out_is_the_sum_over_instances_and_days(moto: object) -> None:
    """Other metrics, days and regions are not included."""
    client = boto3.client("cloudwatch", region_name="us-west-2")
    today = datetime.now(UTC).replace(hour=0, minute=30, second=0, microsecond=0)
    for name, instance, ago, value in [
        ("NetworkOut", "i-1", 1, 1e9),
        ("NetworkOut", "i-1", 2, 2e9),
        ("NetworkOut", "i-2", 1, 4e9),
        ("NetworkOut", "i-2", 5, 8e9),
        ("NetworkIn", "i-2", 1, 16e9),
    ]:
        client.put_metric_data(
            Namespace="AWS/EC2",
            MetricData=[
                {
                    "MetricName": name,
                    "Dimensions": [{"Name": "InstanceId", "Value": instance}],
                    "Timestamp": today - timedelta(ago),
                    "Value": value,
                    "Unit": "Bytes",
                }
            ],
        )
    day = today.date()
    assert Aws().network_out(Days(day - timedelta(2), day - timedelta(1))) == 7_000_000_000
    with pytest.raises(CannotTellError, match="last 14 days only"):
        Aws().network_out(Days(day - timedelta(15), day))


@pytest.mark.parametrize("status", ["InternalError", "Forbidden", "PartialData", None])
def test_unreadable_metric_is_not_0(moto: object, status: str | None) -> None:
    """CloudWatch answers with 200, no values and a status for each query, or without one of the queries."""
    put_network_out(5)

    def fail(parsed: dict[str, Any], **_: Any) -> None:
        (result,) = parsed["MetricDataResults"]
        failed = [result | {"StatusCode": status, "Values": [], "Timestamps": []}]
        parsed["MetricDataResults"] = failed if status else []

    account = Aws()
    yesterday = datetime.now(UTC).date() - timedelta(1)
    days = Days(yesterday, yesterday)
    assert account.network_out(days) == 5_000_000_000
    account.session.events.register("after-call.cloudwatch.GetMetricData", fail)
    with pytest.raises(CannotTellError, match=rf"NetworkOut of i-1 \({status or 'no answer'}\)"):
        account.network_out(days)


@pytest.mark.parametrize(
    ("code", "error", "sentence"),
    [
        ("UnrecognizedClientException", UsageError, "AWS_ACCESS_KEY_ID"),
        ("ExpiredTokenException", UsageError, "AWS_SESSION_TOKEN"),
        ("AccessDeniedException", UsageError, "does not allow GetCostAndUsage"),
        ("LimitExceededException", RetriableError, "LimitExceededException"),
        ("DataUnavailableException", FinalError, "DataUnavailableException: because"),
    ],
)
def test_rejected_request_raises_the_error_of_its_code(
    cost_explorer: CostExplorer,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    error: type[TapeError],
    sentence: str,
) -> None:
    headers = {"Content-Type": "application/x-amz-json-1.1"}
    cost_explorer.refusal = (400, headers, {"__type": code, "message": "because"})
    with pytest.raises(error, match=sentence):
        Aws().bill(JULY)


def test_missing_credentials_are_named(cloud_env: pytest.MonkeyPatch) -> None:
    cloud_env.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(UsageError, match="AWS_SECRET_ACCESS_KEY"):
        Aws()
    cloud_env.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(UsageError, match="AWS_ACCESS_KEY_ID is not set"):
        Aws()
    cloud_env.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(UsageError, match="nobody"):
        Aws()


def test_unreachable_endpoint_is_retriable(cloud_env: pytest.MonkeyPatch) -> None:
    with pytest.raises(RetriableError, match="AWS cannot be reached"):
        Aws().bill(JULY)
