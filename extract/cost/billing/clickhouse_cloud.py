"""What ClickHouse Cloud charges: its usage-cost API, by day and entity.

https://clickhouse.com/docs/products/cloud/api-reference/billing/get-organization-usage-costs: GET
/v1/organizations/{id}/usageCost with from_date and to_date (included, at most 31 days in all, UTC), basic auth, ten
requests in ten seconds. 1 CHC is 1 USD. And how its services are set up to idle: GET /v1/organizations/{id}/services.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import TypeVar

import httpx
import msgspec

from extract.clickhouse.settings import LOOPBACK_HOSTS
from extract.cost.billing.charges import Charge, Days
from extract.cost.billing.money import CENT, total
from extract.deribit.rate_limit import RateLimiter
from extract.errors import CannotTellError, FinalError, OutsideError, RetriableError, UsageError
from extract.retry import Retrier, RetryPolicy

CLOUD = "clickhouse"
MOST_DAYS = 31
PER_SECOND = 0.8
"""Ten requests in any ten seconds are allowed; the limiter may let two through at once."""
NOISE = Decimal("1e-9")
"""The API's numbers are binary fractions: what a record's parts lack of its total by less than this is no charge."""
RETRIABLE = frozenset({408, 425, 429, 500, 502, 503, 504})

T = TypeVar("T")


@dataclass(frozen=True)
class CloudApiSettings:
    """Where the ClickHouse Cloud API is and who asks; `key_secret` is kept out of `repr`."""

    url: str
    organization_id: str
    key_id: str
    key_secret: str = field(repr=False)


def cloud_api_settings(env: Mapping[str, str] = os.environ) -> CloudApiSettings:
    """From `CLICKHOUSE_CLOUD_API_URL` and so on. Raises UsageError that names what is missing."""
    for name in ("ORGANIZATION_ID", "API_KEY_ID", "API_KEY_SECRET"):
        if not env.get(f"CLICKHOUSE_CLOUD_{name}"):
            raise UsageError(f"CLICKHOUSE_CLOUD_{name} is not set; the bill of ClickHouse Cloud needs it.")
    url = (env.get("CLICKHOUSE_CLOUD_API_URL") or "https://api.clickhouse.cloud").rstrip("/")
    parts = re.match(r"(https?)://(\[[^]]+\]|[^/:@]+)(:\d+)?(/|$)", url)
    if not parts or (parts[1] == "http" and parts[2].strip("[]") not in LOOPBACK_HOSTS):
        raise UsageError(
            "CLICKHOUSE_CLOUD_API_URL should begin with https:// and have no name or password in it."
        )
    return CloudApiSettings(
        url,
        env["CLICKHOUSE_CLOUD_ORGANIZATION_ID"],
        env["CLICKHOUSE_CLOUD_API_KEY_ID"],
        env["CLICKHOUSE_CLOUD_API_KEY_SECRET"],
    )


class UsageRecord(msgspec.Struct, frozen=True):
    """What one entity cost on one day, in CHC. `metrics` by the API's names, of which there may come new ones."""

    day: date = msgspec.field(name="date")
    entity_type: str = msgspec.field(name="entityType")
    entity_name: str = msgspec.field(name="entityName")
    total: Decimal = msgspec.field(name="totalCHC")
    locked: bool
    metrics: dict[str, Decimal | None]

    def charges(self) -> list[Charge]:
        """By kind; they add up to `total` exactly, so a discount that no metric has is a charge of its own."""
        kinds = {kind_of(name): usd for name, usd in self.metrics.items() if usd}
        rest = self.total - total(kinds.values())
        if kinds and abs(rest) < NOISE:
            kinds[max(kinds, key=lambda kind: abs(kinds[kind]))] += rest
        elif rest:
            kinds["discount" if rest < 0 else "not itemised"] = rest
        return [Charge(CLOUD, self.entity_name, kind, usd, self.locked) for kind, usd in kinds.items()]


class _Usage(msgspec.Struct):
    grand_total: Decimal = msgspec.field(name="grandTotalCHC")
    costs: list[UsageRecord]


class _Answer(msgspec.Struct):
    result: _Usage


class Endpoint(msgspec.Struct, frozen=True):
    host: str = ""


class Service(msgspec.Struct, frozen=True, rename="camel"):
    """One service as it is set up. It idles after `idle_timeout_minutes` without a query, if `idle_scaling`."""

    name: str
    state: str
    idle_scaling: bool = True
    idle_timeout_minutes: int | None = None
    num_replicas: int | None = None
    min_replica_memory_gb: int | None = None
    endpoints: list[Endpoint] = []


class _Services(msgspec.Struct):
    result: list[Service]


class _BlockPandas(msgspec.Struct):
    error: str = ""
    request_id: str = msgspec.field(name="requestId", default="")


class UsageCostClient:
    """Asks for usage costs. `transport`, `retrier` and `limiter` come from outside where a test wants others."""

    def __init__(
        self,
        settings: CloudApiSettings,
        *,
        transport: httpx.BaseTransport | None = None,
        retrier: Retrier | None = None,
        limiter: RateLimiter | None = None,
    ) -> None:
        self._settings = settings
        self._retrier = retrier or Retrier(RetryPolicy(attempts=5, total_s=60.0, first_s=1.0))
        self._limiter = limiter or RateLimiter(PER_SECOND)
        self._http = httpx.Client(
            base_url=settings.url,
            auth=(settings.key_id, settings.key_secret),
            transport=transport,
            timeout=30.0,
            headers={"User-Agent": "deribit-tape"},
        )

    def __enter__(self) -> UsageCostClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def usage(self, days: Days) -> list[UsageRecord]:
        """All records of `days`, in as few requests as the API allows.

        Raises UsageError for a key or organization that is refused, CannotTellError where the records contradict the
        total that comes with them, OutsideError where the API fails.
        """
        return [record for window in days.windows(MOST_DAYS) for record in self._window(window)]

    def services(self) -> list[Service]:
        """All services of the organization. Raises what `usage` raises."""
        return self._ask("services", {}, _Services).result

    def _window(self, days: Days) -> list[UsageRecord]:
        params = {"from_date": str(days.first), "to_date": str(days.last)}
        found = self._ask("usageCost", params, _Answer).result
        _check(found, days)
        return found.costs

    def _ask(self, what: str, params: dict[str, str], shape: type[T]) -> T:
        body = self._retrier.run(lambda: self._get(what, params))
        try:
            return msgspec.json.decode(body, type=shape)
        except msgspec.MsgspecError as error:
            raise FinalError(
                f"The API of ClickHouse Cloud answers {what} in another shape than it documents: {error}."
            ) from error

    def _get(self, what: str, params: dict[str, str]) -> bytes:
        self._limiter.acquire()
        path = f"/v1/organizations/{self._settings.organization_id}/{what}"
        try:
            response = self._http.get(path, params=params)
        except httpx.RequestError as error:
            fault = str(error) or type(error).__name__
            raise RetriableError(
                f"The ClickHouse Cloud API cannot be reached at {self._settings.url}: {fault}"
            ) from error
        if response.status_code == 200:
            return response.content
        raise self._refusal(response)

    def _refusal(self, response: httpx.Response) -> OutsideError | UsageError:
        """The error that an answer stands for, by what to do about it."""
        status, said = response.status_code, self._said(response)
        if status in (401, 403):
            return UsageError(
                f"ClickHouse Cloud refuses the API key ({said}); check CLICKHOUSE_CLOUD_API_KEY_ID and "
                "CLICKHOUSE_CLOUD_API_KEY_SECRET, and that the key's role may read billing."
            )
        if status == 404:
            return UsageError(
                f"ClickHouse Cloud knows no such organization ({said}); check CLICKHOUSE_CLOUD_ORGANIZATION_ID."
            )
        message = f"The API of ClickHouse Cloud answered with {said}"
        if status in RETRIABLE:
            wait = response.headers.get("retry-after", "")
            return RetriableError(message, retry_after_s=float(wait) if wait.isdecimal() else None)
        return FinalError(f"{message}.")

    def _said(self, response: httpx.Response) -> str:
        """`HTTP 403: what the API says, request id`, without the key, whatever the API repeats."""
        try:
            refusal = msgspec.json.decode(response.content, type=_BlockPandas)
        except msgspec.MsgspecError:
            refusal = _BlockPandas()
        said = " ".join(refusal.error.split())[:200]
        said = f"HTTP {response.status_code}{f': {said}' if said else ''}"
        if refusal.request_id:
            said += f", request {refusal.request_id[:40]}"
        for secret in (self._settings.key_secret, self._settings.key_id):
            said = said.replace(secret, "…")
        return said


def kind_of(metric: str) -> str:
    """`publicDataTransferCHC` → `public data transfer`."""
    words = re.sub(r"([A-Z]|(?<=[a-z])\d+)", r" \1", metric.removesuffix("CHC")).lower()
    return re.sub(r"tier (\d)", r"tier \1", words).strip()


def _check(found: _Usage, days: Days) -> None:
    """Only days that were asked for, and as much in all as the API says."""
    for record in found.costs:
        if not days.first <= record.day <= days.last:
            raise CannotTellError(
                f"Asked for {days}, the usage-cost API of ClickHouse Cloud answers with a record of {record.day}."
            )
    added = total(record.total for record in found.costs)
    if abs(added - found.grand_total) >= CENT / 2:
        raise CannotTellError(
            f"The records of ClickHouse Cloud for {days} add up to {added} CHC, and its own total is "
            f"{found.grand_total}: one of them is wrong."
        )
