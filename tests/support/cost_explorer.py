"""Fake of AWS Cost Explorer on loopback: GetCostAndUsage by the day, strict and with pages, unlike moto's."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.support.cloud_api import Server

TARGET = "AWSInsightsIndexService.GetCostAndUsage"
KNOWN = {"TimePeriod", "Granularity", "Filter", "Metrics", "GroupBy", "NextPageToken"}


@dataclass(frozen=True)
class Item:
    """Cost of one usage type of one service on one day, with its activated `tags`."""

    day: date
    service: str
    usage_type: str
    usd: str
    estimated: bool = False
    tags: tuple[tuple[str, str], ...] = ()


class CostExplorer(Server):
    """Serves `items`, `page` groups of a day at a time; `pages` counts the requests."""

    def __init__(self, items: Iterable[Item] = (), page: int = 3) -> None:
        super().__init__()
        self.items = list(items)
        self.page = page
        self.pages = 0
        self.unit = "USD"
        self.leave_out: date | None = None
        self.loop = False
        self.refusal: tuple[int, dict[str, str], Any] | None = None

    def answer(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], Any]:
        query = json.loads(body)
        headers = {"Content-Type": "application/x-amz-json-1.1"}
        if self.refusal:
            return self.refusal
        if request.headers.get("x-amz-target") != TARGET:
            return 400, headers, {"__type": "UnknownOperationException", "message": "only GetCostAndUsage"}
        if "/us-east-1/ce/aws4_request" not in request.headers.get("authorization", ""):
            return (
                400,
                headers,
                {"__type": "UnrecognizedClientException", "message": "not signed for us-east-1/ce"},
            )
        if problem := self._validate(query):
            return 400, headers, {"__type": "ValidationException", "message": problem}
        self.pages += 1
        return 200, headers, self._page(query)

    def _validate(self, query: dict[str, Any]) -> str | None:
        if unknown := set(query) - KNOWN:
            return f"unknown: {unknown}"
        if (
            query["Granularity"] != "DAILY"
            or query["Metrics"] != ["UnblendedCost"]
            or len(query["GroupBy"]) > 2
        ):
            return "DAILY, UnblendedCost and at most two groups are served"
        if query["TimePeriod"]["Start"] >= query["TimePeriod"]["End"]:
            return "Start date (and hour) should be before end date (and hour)"
        return None

    def _page(self, query: dict[str, Any]) -> dict[str, Any]:
        start = date.fromisoformat(query["TimePeriod"]["Start"])
        days = (date.fromisoformat(query["TimePeriod"]["End"]) - start).days  # End is exclusive
        rows = [row for at in range(days) for row in self._day(start + timedelta(at), query)]
        at = int(query.get("NextPageToken", "page-0").removeprefix("page-"))
        response: dict[str, Any] = {"ResultsByTime": [], "DimensionValueAttributes": []}
        for result in rows[at : at + self.page]:
            response["ResultsByTime"].append(result)
        if at + self.page < len(rows):
            response["NextPageToken"] = f"page-{at + (0 if self.loop and at else self.page)}"
        return response

    def _day(self, day: date, query: dict[str, Any]) -> list[dict[str, Any]]:
        """Results of one day with one group each, so that a page may end within a day; an empty result without groups."""
        if day == self.leave_out:
            return []
        period = {"Start": str(day), "End": str(day + timedelta(1))}
        groups: list[tuple[bool, dict[str, Any]]] = []
        for item in self.items:
            if item.day != day or not _passes(item, query.get("Filter")):
                continue
            keys = [_key(item, group) for group in query["GroupBy"]]
            metrics = {"UnblendedCost": {"Amount": item.usd, "Unit": self.unit}}
            groups.append((item.estimated, {"Keys": keys, "Metrics": metrics}))
        results = [
            {"TimePeriod": period, "Total": {}, "Groups": [group], "Estimated": estimated}
            for estimated, group in groups
        ]
        return results or [{"TimePeriod": period, "Total": {}, "Groups": [], "Estimated": False}]


def _passes(item: Item, wanted: dict[str, Any] | None) -> bool:
    return not wanted or dict(item.tags).get(wanted["Tags"]["Key"]) in wanted["Tags"]["Values"]


def _key(item: Item, group: dict[str, str]) -> str:
    if group["Type"] == "TAG":
        return f"{group['Key']}${dict(item.tags).get(group['Key'], '')}"
    return {"SERVICE": item.service, "USAGE_TYPE": item.usage_type}[group["Key"]]
