"""What AWS charges, by Cost Explorer, and what leaves its machines, by CloudWatch.

Cost Explorer is asked by the day, which lets it be seen whether an answer is whole; each request is charged.
Credentials, region and `AWS_ENDPOINT_URL` come from the environment, as boto3 reads it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any, TypeVar

from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)

from extract.cost.billing.charges import Charge, Days
from extract.errors import CannotTellError, FinalError, OutsideError, ProofError, RetriableError, UsageError

CLOUD = "aws"
METRIC = "UnblendedCost"
PROJECT_TAG = ("project", "deribit-tape")
BY_USAGE = ({"Type": "DIMENSION", "Key": "SERVICE"}, {"Type": "DIMENSION", "Key": "USAGE_TYPE"})
BY_COMPONENT = ({"Type": "DIMENSION", "Key": "SERVICE"}, {"Type": "TAG", "Key": "component"})
LISTED_DAYS = 14
"""CloudWatch lists the metrics that had data in the last two weeks, and no older ones."""
QUERIES_A_REQUEST = 500
DAY_S = 86_400

_REFUSED = frozenset(
    {"AuthFailure", "ExpiredToken", "ExpiredTokenException", "IncompleteSignature", "InvalidClientTokenId"}
    | {"InvalidSignatureException", "SignatureDoesNotMatch", "UnrecognizedClientException"}
)
_FORBIDDEN = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "OptInRequired"})
_BUSY = frozenset({"LimitExceededException", "Throttling", "ThrottlingException", "TooManyRequestsException"})

T = TypeVar("T")


@dataclass(frozen=True)
class AwsBill:
    """What Cost Explorer said; `requests` of it are charged themselves."""

    charges: list[Charge]
    requests: int


class Aws:
    """One account, as the environment names it. Raises UsageError for credentials, OutsideError for failures."""

    def __init__(self, env: Mapping[str, str] = os.environ) -> None:
        self.region = env.get("AWS_DEFAULT_REGION") or env.get("CLICKHOUSE_CLOUD_REGION") or "us-west-2"
        self._session = _told(lambda: Session(region_name=self.region))
        if _told(self._session.get_credentials) is None:
            raise UsageError(
                "AWS_ACCESS_KEY_ID is not set, nor AWS_PROFILE, nor is this a machine with a role; AWS needs one."
            )
        self.requests = 0

    def bill(
        self, days: Days, by: Sequence[dict[str, str]] = BY_USAGE, tag: tuple[str, str] | None = None
    ) -> AwsBill:
        """Charges of `days` grouped by two of Cost Explorer's keys; `tag` (key, value) leaves out what lacks it.

        Raises CannotTellError where days are missing from the answer, or amounts are not in USD.
        """
        asked: dict[str, Any] = {
            "TimePeriod": {"Start": str(days.first), "End": str(days.last + timedelta(1))},
            "Granularity": "DAILY",
            "Metrics": [METRIC],
            "GroupBy": list(by),
        }
        if tag:
            asked["Filter"] = {"Tags": {"Key": tag[0], "Values": [tag[1]], "MatchOptions": ["EQUALS"]}}
        before = self.requests
        told: set[date] = set()
        charges: list[Charge] = []
        for page in self._pages(asked):
            for result in page["ResultsByTime"]:
                told.add(date.fromisoformat(result["TimePeriod"]["Start"]))
                charges += [
                    charge
                    for group in result["Groups"]
                    if (charge := _charge(group, is_final=not result["Estimated"])).usd
                ]
        if missing := sorted(set(days.each()) - told):
            raise CannotTellError(
                f"Cost Explorer answers for {len(told)} of the {len(days)} days asked for; {missing[0]} is missing."
            )
        if tag and not charges:
            raise CannotTellError(
                f"Cost Explorer knows of no charge with tag {tag[0]}={tag[1]}; that is 0 only if the tag is activated "
                "as a cost allocation tag, in the billing console."
            )
        return AwsBill(charges, self.requests - before)

    def _pages(self, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Each page of GetCostAndUsage, for which boto3 has no paginator."""
        client = self._client("ce", "us-east-1")
        seen: set[str] = set()
        while True:
            self.requests += 1
            page = _told(partial(client.get_cost_and_usage, **asked))
            yield page
            token = page.get("NextPageToken")
            if not token:
                return
            if token in seen:
                raise ProofError("Cost Explorer names a page a second time: its pages do not end.")
            seen.add(token)
            asked = {**asked, "NextPageToken": token}

    def network_out(self, days: Days) -> int:
        """Bytes that left this region's EC2 instances, whatever way: within the region, to the internet.

        Raises CannotTellError for days that CloudWatch lists no longer: an instance that is gone would count as 0.
        """
        if days.first < (datetime.now(UTC) - timedelta(LISTED_DAYS)).date():
            raise CannotTellError(
                f"CloudWatch lists instances of the last {LISTED_DAYS} days alone; ask for fewer days than {len(days)}."
            )
        return _told(lambda: self._sum("AWS/EC2", "NetworkOut", days))

    def _sum(self, namespace: str, name: str, days: Days) -> int:
        client = self._client("cloudwatch", self.region)
        listed = client.get_paginator("list_metrics").paginate(Namespace=namespace, MetricName=name)
        metrics = [metric for page in listed for metric in page["Metrics"]]
        metrics = [m for m in metrics if [d["Name"] for d in m["Dimensions"]] == ["InstanceId"]]
        found = 0.0
        for at in range(0, len(metrics), QUERIES_A_REQUEST):
            queries = [
                {"Id": f"m{number}", "MetricStat": {"Metric": metric, "Period": DAY_S, "Stat": "Sum"}}
                for number, metric in enumerate(metrics[at : at + QUERIES_A_REQUEST])
            ]
            pages = client.get_paginator("get_metric_data").paginate(
                MetricDataQueries=queries,
                StartTime=datetime.combine(days.first, datetime.min.time(), UTC),
                EndTime=datetime.combine(days.last + timedelta(1), datetime.min.time(), UTC),
            )
            found += _whole_sum([each for page in pages for each in page["MetricDataResults"]], queries)
        return round(found)

    def _client(self, service: str, region: str) -> Any:
        config = Config(connect_timeout=10, read_timeout=60)
        return _told(lambda: self._session.client(service, region_name=region, config=config))


def _whole_sum(results: Sequence[dict[str, Any]], queries: Sequence[dict[str, Any]]) -> float:
    """Raises CannotTellError where CloudWatch answered a query in part or not at all: that is not 0."""
    status = {each["Id"]: each.get("StatusCode", "") for each in results}  # of its last page
    for query in queries:
        if (said := status.get(query["Id"], "no answer")) != "Complete":
            metric = query["MetricStat"]["Metric"]
            raise CannotTellError(
                f"CloudWatch does not tell the whole {metric['MetricName']} of {metric['Dimensions'][0]['Value']} "
                f"({said}); ask again."
            )
    return sum(value for each in results for value in each["Values"])


def _charge(group: dict[str, Any], *, is_final: bool) -> Charge:
    service, kind = group["Keys"]
    amount = group["Metrics"][METRIC]
    if amount["Unit"] != "USD":
        raise CannotTellError(
            f"AWS bills {service} in {amount['Unit']}, and nothing but USD is added up here."
        )
    try:
        usd = Decimal(amount["Amount"])
    except InvalidOperation as error:
        raise FinalError(f"Cost Explorer says that {service} costs {amount['Amount']!r}.") from error
    if kind.startswith("component$"):
        kind = kind.removeprefix("component$") or "no component"
    return Charge(CLOUD, service, kind, usd, is_final)


def _told(call: Callable[[], T]) -> T:
    """What `call` returns; boto3's errors as ours. Its own messages hold no secret key, and are cut all the same."""
    try:
        return call()
    except (NoCredentialsError, PartialCredentialsError, ProfileNotFound) as error:
        raise UsageError(
            f"AWS has no whole credentials ({error}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
        ) from error
    except ClientError as error:
        raise _refusal(error) from error
    except (ConnectionError, HTTPClientError) as error:
        raise RetriableError(f"AWS cannot be reached: {_short(str(error))}") from error
    except (BotoCoreError, ValueError) as error:
        raise FinalError(f"AWS cannot be asked: {_short(str(error))}") from error


def _refusal(error: ClientError) -> OutsideError | UsageError:
    code = error.response.get("Error", {}).get("Code", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    operation = error.operation_name
    if code in _REFUSED:
        return UsageError(
            f"AWS refuses the credentials ({code}); check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and "
            "AWS_SESSION_TOKEN."
        )
    if code in _FORBIDDEN:
        return UsageError(
            f"AWS does not allow {operation} to these credentials ({code}); give their role that right."
        )
    message = (
        f"AWS answered {operation} with {code}: {_short(error.response.get('Error', {}).get('Message', ''))}"
    )
    return RetriableError(message) if code in _BUSY or status >= 500 else FinalError(message)


def _short(text: str) -> str:
    return " ".join(text.split())[:200]
