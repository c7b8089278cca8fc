"""Answers from the HTTP API of `tape serve` (docs/api.md)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pyarrow as pa

from extract.client.coverage import NOTHING_COVERED, Coverage, combine
from extract.client.database import GAP_SCHEMA, stream_table
from extract.client.question import Question, Route
from extract.client.result import Answer
from extract.errors import FinalError, RetriableError, UsageError
from extract.proxies import LOOPBACK_HOSTS

TIMEOUT_S = 120.0
MOST_ROWS = 1_000_000
"""Rows of one answer in Arrow."""
ARROW = "arrow"


class ApiBackend:
    """Reads from `url`; `key` is sent as a bearer token. `transport` replaces the network in tests."""

    sends_coverage = True

    def __init__(
        self, url: str, key: str | None = None, *, transport: httpx.BaseTransport | None = None
    ) -> None:
        host = urlsplit(url).hostname
        self._url = url.rstrip("/")
        self._client = httpx.Client(
            base_url=self._url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=TIMEOUT_S,
            trust_env=host not in LOOPBACK_HOSTS,
            transport=transport,
        )

    def close(self) -> None:
        self._client.close()

    def read(self, question: Question) -> Answer:
        tables, proofs = [], []
        for route in question.routes:
            pages = list(self._pages(route))
            tables += [table for table, _ in pages]
            proofs.append(pages[-1][1])  # each page has the coverage of the whole question
        table = pa.concat_tables(tables, promote_options="default")
        if question.order:
            table = table.sort_by([(name, "ascending") for name in question.order])
        return Answer(table, combine(proofs))

    def prove(self, question: Question) -> Coverage:
        return self.read(question).coverage or NOTHING_COVERED

    def read_coverage(self) -> Answer:
        answer = self._get(Route("/v1/coverage")).json()
        return Answer(stream_table(answer["items"]), Coverage.of_json(answer["coverage"]))

    def read_gaps(self, currency: str, kind: str, instrument: str) -> Answer:
        query = {"currency": currency or None, "kind": kind or None, "instrument": instrument or None}
        items: list[dict[str, Any]] = []
        cursor = None
        while True:
            answer = self._get(Route("/v1/gaps", {**query, "limit": 10_000, "cursor": cursor})).json()
            items += answer["items"]
            if (cursor := answer["next_cursor"]) is None:
                break
        rows = [{name: item[name] for name in GAP_SCHEMA.names} for item in items]
        return Answer(pa.Table.from_pylist(rows, GAP_SCHEMA), Coverage.of_json(answer["coverage"]))

    def _pages(self, route: Route) -> Iterator[tuple[pa.Table, Coverage]]:
        """Answers of one route in Arrow, until the last page or the requested number of rows."""
        left = route.query.get("limit")
        cursor = None
        while True:
            query = {**route.query, "format": ARROW}
            if route.has_pages:
                query |= {"limit": MOST_ROWS if left is None else min(left, MOST_ROWS), "cursor": cursor}
            response = self._get(Route(route.path, query))
            table = pa.ipc.open_stream(response.content).read_all()
            yield table, Coverage.of_json(json.loads(response.headers["X-Coverage"]))
            cursor = response.headers.get("X-Next-Cursor")
            left = None if left is None else left - table.num_rows
            if not cursor or left == 0:
                return

    def _get(self, route: Route) -> httpx.Response:
        """Send one request. Raises UsageError for a wrong question or key, RetriableError where a retry may succeed."""
        query = {name: value for name, value in route.query.items() if value is not None}
        try:
            response = self._client.get(route.path, params=query)
        except httpx.HTTPError as error:
            raise RetriableError(
                f"{self._url} cannot be reached ({error}); start it by `tape serve`, or correct the address."
            ) from error
        if response.is_success:
            return response
        try:
            body = response.json()
            message = f"{body['message']} ({body['code']})"
        except (ValueError, KeyError, TypeError):
            message = f"HTTP status {response.status_code}"
        text = f"{self._url}{route.path} answered: {message}"
        if response.status_code == 401:
            raise UsageError(f"{text} Give the key as connect(url, key=…).")
        if response.status_code in (429, 502, 503, 504):
            raise RetriableError(text)
        if response.status_code < 500:
            raise UsageError(text)
        raise FinalError(text)
