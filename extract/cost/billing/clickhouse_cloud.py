"""Client of the ClickHouse Cloud API: charges by day and entity, and settings of the services.

https://clickhouse.com/docs/products/cloud/api-reference/billing/get-organization-usage-costs: GET
/v1/organizations/{id}/usageCost with from_date and to_date (included, at most 31 days in all, UTC), basic auth, ten
requests in ten seconds. 1 CHC is 1 USD. GET /v1/organizations/{id}/services returns size and idling of the services.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Generic, TypeVar

import httpx
import msgspec

from extract.clickhouse.errors import TRANSIENT_HTTP_STATUSES
from extract.cost.billing.charges import Charge, Days
from extract.cost.billing.money import CENT, total
from extract.deribit.rate_limit import RateLimiter
from extract.errors import CannotTellError, FinalError, OutsideError, RetriableError, UsageError
from extract.proxies import LOOPBACK_HOSTS, find_proxy
from extract.retry import Retrier, RetryPolicy

CLOUD = "clickhouse"
MAX_DAYS = 31
REQUESTS_PER_SECOND = 0.8
"""Ten requests in any ten seconds are allowed; the limiter may let two through at once."""
NOISE = Decimal("1e-9")
"""The API's numbers are binary fractions: a smaller difference between a record's parts and its total is no charge."""
SERVICE_RETRIES = RetryPolicy(attempts=2, total_s=10.0, first_s=0.5)

T = TypeVar("T")


@dataclass(frozen=True)
class CloudApiSettings:
    """Address and key of the ClickHouse Cloud API; `key_secret` is not in `repr`."""

    url: str
    organization_id: str
    key_id: str
    key_secret: str = field(repr=False)


def cloud_api_settings(env: Mapping[str, str] = os.environ) -> CloudApiSettings:
    """Read `CLICKHOUSE_CLOUD_API_URL` and so on. Raises UsageError that names the missing variable."""
    for name in ("ORGANIZATION_ID", "API_KEY_ID", "API_KEY_SECRET"):
        if not env.get(f"CLICKHOUSE_CLOUD_{name}"):
            raise UsageError(f"CLICKHOUSE_CLOUD_{name} is not set; the bill of ClickHouse Cloud needs it.")
    url = (env.get("CLICKHOUSE_CLOUD_API_URL") or "https://api.clickhouse.cloud").rstrip("/")
    parts = re.match(r"(https?)://(\[[^]]+\]|[^/:@]+)(:\d+)?(/|$)", url)
    if not parts or (parts[1] == "http" and parts[2].strip("[]") not in LOOPBACK_HOSTS):
        raise UsageError(
            "CLICKHOUSE_CLOUD_API_URL should begin with https:// and contain no name or password."
        )
    return CloudApiSettings(
        url,
        env["CLICKHOUSE_CLOUD_ORGANIZATION_ID"],
        env["CLICKHOUSE_CLOUD_API_KEY_ID"],
        env["CLICKHOUSE_CLOUD_API_KEY_SECRET"],
    )


class UsageRecord(msgspec.Struct, frozen=True):
    """Cost of one entity on one day, in CHC. `metrics` by the API's names, to which new ones may be added."""

    day: date = msgspec.field(name="date")
    entity_type: str = msgspec.field(name="entityType")
    entity_name: str = msgspec.field(name="entityName")
    total: Decimal = msgspec.field(name="totalCHC")
    locked: bool
    metrics: dict[str, Decimal | None]

    def charges(self) -> list[Charge]:
        """Charges by kind, which add up to `total` exactly: a discount that no metric has is a separate charge."""
        kinds = {kind_of(name): usd for name, usd in self.metrics.items() if usd}
        rest = self.total - total(kinds.values())
        if kinds and abs(rest) < NOISE:
            kinds[max(kinds, key=lambda kind: abs(kinds[kind]))] += rest
        elif rest:
            kinds["discount" if rest < 0 else "not itemised"] = rest
        return [
            Charge(CLOUD, self.entity_name, kind, usd, Decimal(0) if self.locked else usd)
            for kind, usd in kinds.items()
        ]


class _Usage(msgspec.Struct):
    grand_total: Decimal = msgspec.field(name="grandTotalCHC")
    costs: list[UsageRecord]


class Endpoint(msgspec.Struct, frozen=True):
    host: str = ""


class Service(msgspec.Struct, frozen=True, rename="camel"):
    """Settings of one service. With `idle_scaling` it idles after `idle_timeout_minutes` without a query."""

    name: str
    state: str
    idle_scaling: bool = True
    idle_timeout_minutes: int | None = None
    num_replicas: int | None = None
    min_replica_memory_gb: int | None = None
    endpoints: list[Endpoint] = []


class _Body(msgspec.Struct, Generic[T]):
    result: T


class _ErrorBody(msgspec.Struct):
    error: str = ""
    request_id: str = msgspec.field(name="requestId", default="")


class CloudApiClient:
    """HTTP client of the API; tests pass another `retrier` or `limiter`."""

    def __init__(
        self,
        settings: CloudApiSettings,
        *,
        retrier: Retrier | None = None,
        limiter: RateLimiter | None = None,
    ) -> None:
        self._settings = settings
        self._retrier = retrier or Retrier(RetryPolicy(attempts=5, total_s=60.0, first_s=1.0))
        self._limiter = limiter or RateLimiter(REQUESTS_PER_SECOND)
        proxy = find_proxy(settings.url)
        self._http = httpx.Client(
            base_url=settings.url,
            # Given as a transport, because httpx reads the environment in another way.
            transport=httpx.HTTPTransport(
                proxy=httpx.Proxy(proxy.address, headers=dict(proxy.headers)) if proxy else None
            ),
            auth=(settings.key_id, settings.key_secret),
            timeout=30.0,
            headers={"User-Agent": "deribit-tape"},
        )

    def __enter__(self) -> CloudApiClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def usage(self, days: Days) -> list[UsageRecord]:
        """All records of `days`, in as few requests as the API allows.

        Raises UsageError for a rejected key or organization, CannotTellError if the records contradict the total of
        their response, OutsideError if the API fails.
        """
        records: list[UsageRecord] = []
        for window in days.windows(MAX_DAYS):
            params = {"from_date": str(window.first), "to_date": str(window.last)}
            usage = self._request("usageCost", params, _Usage)
            _require_consistent(usage, window)
            records += usage.costs
        return records

    def services(self) -> list[Service]:
        """All services of the organization. Raises what `usage` raises."""
        return self._request("services", {}, list[Service])

    def _request(self, resource: str, params: dict[str, str], shape: type[T]) -> T:
        body = self._retrier.run(lambda: self._get(resource, params))
        try:
            return msgspec.json.decode(body, type=_Body[shape]).result  # type: ignore[valid-type]  # made at run time
        except msgspec.MsgspecError as error:
            raise FinalError(
                f"The ClickHouse Cloud API returned {resource} in another shape than it documents: {error}."
            ) from error

    def _get(self, resource: str, params: dict[str, str]) -> bytes:
        self._limiter.acquire()
        path = f"/v1/organizations/{self._settings.organization_id}/{resource}"
        try:
            response = self._http.get(path, params=params)
        except httpx.RequestError as error:
            fault = str(error) or type(error).__name__
            raise RetriableError(
                f"The ClickHouse Cloud API cannot be reached at {self._settings.url}: {fault}"
            ) from error
        if response.status_code == 200:
            return response.content
        raise self._error_from_response(response)

    def _error_from_response(self, response: httpx.Response) -> OutsideError | UsageError:
        status, text = response.status_code, self._describe(response)
        if status in (401, 403):
            return UsageError(
                f"ClickHouse Cloud rejects the API key ({text}); check CLICKHOUSE_CLOUD_API_KEY_ID and "
                "CLICKHOUSE_CLOUD_API_KEY_SECRET, and that the key's role may read billing."
            )
        if status == 404:
            return UsageError(
                f"ClickHouse Cloud has no such organization ({text}); check CLICKHOUSE_CLOUD_ORGANIZATION_ID."
            )
        message = f"The ClickHouse Cloud API answered with {text}"
        if status in TRANSIENT_HTTP_STATUSES:
            wait = response.headers.get("retry-after", "")
            return RetriableError(message, retry_after_s=float(wait) if wait.isdecimal() else None)
        return FinalError(f"{message}.")

    def _describe(self, response: httpx.Response) -> str:
        """`HTTP 403: message, request id`, without the key, even if the API repeats it."""
        try:
            body = msgspec.json.decode(response.content, type=_ErrorBody)
        except msgspec.MsgspecError:
            body = _ErrorBody()
        message = " ".join(body.error.split())[:200]
        text = f"HTTP {response.status_code}{f': {message}' if message else ''}"
        if body.request_id:
            text += f", request {body.request_id[:40]}"
        for secret in (self._settings.key_secret, self._settings.key_id):
            text = text.replace(secret, "…")
        return text


def fetch_usage(days: Days) -> list[UsageRecord]:
    """Usage records of `days`, with the key of the environment. Raises what `CloudApiClient.usage` raises."""
    with CloudApiClient(cloud_api_settings()) as client:
        return client.usage(days)


def fetch_service(env: Mapping[str, str] = os.environ) -> Service:
    """The service at CLICKHOUSE_CLOUD_HOST, or the only one of the organization. Raises CannotTellError without one."""
    with CloudApiClient(cloud_api_settings(env), retrier=Retrier(SERVICE_RETRIES)) as client:
        services = client.services()
    host = env.get("CLICKHOUSE_CLOUD_HOST")
    at_host = [each for each in services if host and host in {end.host for end in each.endpoints}]
    if not at_host and len(services) != 1:
        raise CannotTellError(f"None of {len(services)} services is at CLICKHOUSE_CLOUD_HOST.")
    return (at_host or services)[0]


def kind_of(metric: str) -> str:
    """`publicDataTransferCHC` → `public data transfer`."""
    words = re.sub(r"([A-Z]|(?<=[a-z])\d+)", r" \1", metric.removesuffix("CHC")).lower()
    return re.sub(r"tier (\d)", r"tier \1", words).strip()


def _require_consistent(usage: _Usage, days: Days) -> None:
    """Raise CannotTellError for records of other days, or that do not add up to the total of the response."""
    for record in usage.costs:
        if not days.first <= record.day <= days.last:
            raise CannotTellError(
                f"The ClickHouse Cloud API returned a record of {record.day} when {days} were requested."
            )
    added = total(record.total for record in usage.costs)
    if abs(added - usage.grand_total) >= CENT / 2:
        raise CannotTellError(
            f"The records of ClickHouse Cloud for {days} add up to {added} CHC, but its total is "
            f"{usage.grand_total}: one of them is wrong."
        )
