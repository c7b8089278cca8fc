"""Charges of AWS from Cost Explorer, and bytes that leave its machines from CloudWatch.

Costs are requested by the day, so that an incomplete response is recognised; each request is charged. Credentials,
region and `AWS_ENDPOINT_URL` come from the environment, as boto3 reads it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from boto3.session import Session
from botocore.config import Config

from extract.aws_errors import aws_errors
from extract.cost.billing.charges import Charge, Days
from extract.errors import CannotTellError, FinalError, ProofError, UsageError

CLOUD = "aws"
METRIC = "UnblendedCost"
PROJECT_TAG = ("project", "deribit-tape")
BY_USAGE = ({"Type": "DIMENSION", "Key": "SERVICE"}, {"Type": "DIMENSION", "Key": "USAGE_TYPE"})
BY_COMPONENT = ({"Type": "DIMENSION", "Key": "SERVICE"}, {"Type": "TAG", "Key": "component"})
LISTED_DAYS = 14
"""CloudWatch lists only the metrics that had data in the last two weeks."""
QUERIES_PER_REQUEST = 500
DAY_S = 86_400


class Aws:
    """One AWS account, from the environment. Raises UsageError for credentials, OutsideError for failures.

    `requests`: the requests to Cost Explorer, each of which is charged.
    """

    def __init__(self, env: Mapping[str, str] = os.environ) -> None:
        self.region = env.get("AWS_DEFAULT_REGION") or env.get("CLICKHOUSE_CLOUD_REGION") or "us-west-2"
        with aws_errors():
            self.session = Session(region_name=self.region)
            credentials = self.session.get_credentials()
        if credentials is None:
            raise UsageError(
                "AWS_ACCESS_KEY_ID is not set, nor AWS_PROFILE, and this machine has no role; AWS needs credentials."
            )
        self.requests = 0

    def bill(
        self, days: Days, by: Sequence[dict[str, str]] = BY_USAGE, tag: tuple[str, str] | None = None
    ) -> list[Charge]:
        """Charges of `days` grouped by two of Cost Explorer's keys; with `tag` (key, value) only those that have it.

        Raises CannotTellError if days are missing from the response, or amounts are not in USD.
        """
        query: dict[str, Any] = {
            "TimePeriod": {"Start": str(days.first), "End": str(days.last + timedelta(1))},
            "Granularity": "DAILY",
            "Metrics": [METRIC],
            "GroupBy": list(by),
        }
        if tag:
            query["Filter"] = {"Tags": {"Key": tag[0], "Values": [tag[1]], "MatchOptions": ["EQUALS"]}}
        results = [result for page in self._pages(query) for result in page["ResultsByTime"]]
        answered = {date.fromisoformat(result["TimePeriod"]["Start"]) for result in results}
        if missing := sorted(set(days.each()) - answered):
            raise CannotTellError(
                f"Cost Explorer returned {len(answered)} of the {len(days)} days requested; {missing[0]} is missing."
            )
        charges = [
            charge
            for result in results
            for group in result["Groups"]
            if (charge := _charge(group, is_final=not result["Estimated"])).usd
        ]
        if tag and not charges:
            raise CannotTellError(
                f"Cost Explorer has no charge with tag {tag[0]}={tag[1]}; the total is 0 only if the tag is activated "
                "as a cost allocation tag, in the billing console."
            )
        return charges

    def _pages(self, query: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Pages of GetCostAndUsage, for which boto3 has no paginator."""
        client = self._client("ce", "us-east-1")
        tokens: set[str] = set()
        while True:
            self.requests += 1
            with aws_errors():
                page = client.get_cost_and_usage(**query)
            yield page
            token = page.get("NextPageToken")
            if not token:
                return
            if token in tokens:
                raise ProofError("Cost Explorer returned the same page token twice: its pages do not end.")
            tokens.add(token)
            query = {**query, "NextPageToken": token}

    def network_out(self, days: Days) -> int:
        """Bytes that left this region's EC2 instances, to the internet and within the region.

        Raises CannotTellError for days that CloudWatch no longer lists: a terminated instance would count as 0.
        """
        if days.first < (datetime.now(UTC) - timedelta(LISTED_DAYS)).date():
            raise CannotTellError(
                f"CloudWatch lists the instances of the last {LISTED_DAYS} days only; request fewer days than {len(days)}."
            )
        client = self._client("cloudwatch", self.region)
        with aws_errors():
            listed = client.get_paginator("list_metrics").paginate(
                Namespace="AWS/EC2", MetricName="NetworkOut"
            )
            metrics = [metric for page in listed for metric in page["Metrics"]]
        metrics = [m for m in metrics if [d["Name"] for d in m["Dimensions"]] == ["InstanceId"]]
        total_bytes = 0.0
        for at in range(0, len(metrics), QUERIES_PER_REQUEST):
            queries = [
                {"Id": f"m{number}", "MetricStat": {"Metric": metric, "Period": DAY_S, "Stat": "Sum"}}
                for number, metric in enumerate(metrics[at : at + QUERIES_PER_REQUEST])
            ]
            with aws_errors():
                pages = client.get_paginator("get_metric_data").paginate(
                    MetricDataQueries=queries,
                    StartTime=datetime.combine(days.first, datetime.min.time(), UTC),
                    EndTime=datetime.combine(days.last + timedelta(1), datetime.min.time(), UTC),
                )
                results = [each for page in pages for each in page["MetricDataResults"]]
            total_bytes += _complete_sum(results, queries)
        return round(total_bytes)

    def _client(self, service: str, region: str) -> Any:
        config = Config(connect_timeout=10, read_timeout=60)
        create: Any = self.session.client  # typed for literal names of services only
        with aws_errors():
            return create(service, region_name=region, config=config)


def _complete_sum(results: Sequence[dict[str, Any]], queries: Sequence[dict[str, Any]]) -> float:
    """Sum of all values. Raises CannotTellError if a query was answered in part or not at all: that is not 0."""
    statuses = {each["Id"]: each.get("StatusCode", "") for each in results}  # of its last page
    for query in queries:
        if (status := statuses.get(query["Id"], "no answer")) != "Complete":
            metric = query["MetricStat"]["Metric"]
            raise CannotTellError(
                f"CloudWatch did not return all of {metric['MetricName']} of {metric['Dimensions'][0]['Value']} "
                f"({status}); run the command again."
            )
    return sum(float(value) for each in results for value in each["Values"])


def _charge(group: dict[str, Any], *, is_final: bool) -> Charge:
    service, kind = group["Keys"]
    amount = group["Metrics"][METRIC]
    if amount["Unit"] != "USD":
        raise CannotTellError(f"AWS bills {service} in {amount['Unit']}, but only USD can be added up.")
    try:
        usd = Decimal(amount["Amount"])
    except InvalidOperation as error:
        raise FinalError(f"Cost Explorer returned {amount['Amount']!r} as the cost of {service}.") from error
    if kind.startswith("component$"):
        kind = kind.removeprefix("component$") or "no component"
    return Charge(CLOUD, service, kind, usd, Decimal(0) if is_final else usd)
