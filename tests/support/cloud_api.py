"""Fake of the ClickHouse Cloud API on loopback, which rejects every undocumented request."""

from __future__ import annotations

import base64
import json
import re
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from datetime import date
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl, urlsplit

ORGANIZATION = "5ad1a2c4-8b5e-4f0c-9c55-4f6f6ee0a001"
KEY_ID = "aKeyIdCanary77"
KEY_SECRET = "aKeySecretCanary4b1d99"
PATH = re.compile(r"/v1/organizations/([^/]+)/(usageCost|services)")


class Server:
    """HTTP server on 127.0.0.1. Subclasses define `answer(handler, body)`, which returns (status, headers, JSON)."""

    def __init__(self) -> None:
        answer = self.answer

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 65536  # one packet per response, so that no acknowledgement is awaited

            def _any(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                status, headers, value = answer(self, body)
                text = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(text))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = _any

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def answer(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], Any]:
        raise NotImplementedError

    def __enter__(self) -> Any:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()


class CloudApi(Server):
    """Serves `records`. `faults` are the responses to the next requests; `clock` is the time of the rate limit."""

    def __init__(
        self, records: Iterable[dict[str, Any]] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self.records = list(records)
        self.services: list[dict[str, Any]] = []
        self.faults: deque[tuple[int, dict[str, str], Any]] = deque()
        self.windows: list[tuple[date, date]] = []
        self.too_fast = 0
        """Requests that exceeded the rate limit; each was rejected."""
        self.grand_total_off = Decimal(0)
        self.clock = clock
        self._times: deque[float] = deque(maxlen=11)

    def answer(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], Any]:
        status, headers, value = self._answer(request)
        if not isinstance(value, bytes):
            value = {"status": status, "requestId": str(uuid.uuid4()), **value}
        return status, headers, value

    def _answer(self, request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], Any]:
        now = self.clock()
        self._times.append(now)
        if len(self._times) == 11 and now - self._times[0] < 10:
            self.too_fast += 1
            return 429, {"Retry-After": "1"}, {"error": "TOO_MANY_REQUESTS"}
        if self.faults:
            return self.faults.popleft()
        wanted = "Basic " + base64.b64encode(f"{KEY_ID}:{KEY_SECRET}".encode()).decode()
        if request.headers.get("authorization") != wanted:
            header = request.headers.get("authorization", "none")
            decoded = base64.b64decode(header.removeprefix("Basic ")).decode(errors="replace")
            return 401, {}, {"error": f"UNAUTHORIZED: {decoded}"}
        url = urlsplit(request.path)
        match = PATH.fullmatch(url.path)
        if request.command != "GET" or not match or match[1] != ORGANIZATION:
            return 404, {}, {"error": "NOT_FOUND"}
        params = parse_qsl(url.query, keep_blank_values=True)
        if match[2] == "services":
            return (400, {}, {"error": "BAD_REQUEST"}) if params else (200, {}, {"result": self.services})
        if sorted(name for name, _ in params) != ["from_date", "to_date"]:
            return 400, {}, {"error": "BAD_REQUEST: from_date and to_date, and nothing else"}
        days = dict(params)
        if not all(re.fullmatch(r"\d{4}-\d\d-\d\d", day) for day in days.values()):
            return 400, {}, {"error": "BAD_REQUEST: dates are YYYY-MM-DD"}
        first, last = (date.fromisoformat(days[name]) for name in ("from_date", "to_date"))
        if not 0 <= (last - first).days <= 30:
            return 400, {}, {"error": "BAD_REQUEST: to_date at most 30 days after from_date"}
        self.windows.append((first, last))
        return 200, {}, self._usage(first, last)

    def _usage(self, first: date, last: date) -> Any:
        records = [each for each in self.records if first <= date.fromisoformat(each["date"]) <= last]
        grand = sum((Decimal(str(each["totalCHC"])) for each in records), self.grand_total_off)
        text = json.dumps({"result": {"grandTotalCHC": "GRAND", "costs": records}, "status": 200})
        return text.replace('"GRAND"', f"{grand:f}").encode()


def record(
    day: date, name: str = "analytics", *, locked: bool = True, total: str | None = None, **metrics: str
) -> dict[str, Any]:
    """One record in the documented shape. `total` differs from the sum of the metrics if there is a discount."""
    exact = sum(map(Decimal, metrics.values()), Decimal(0)) if total is None else Decimal(total)
    is_service = "computeCHC" in metrics
    return {
        "date": str(day),
        "dataWarehouseId": str(uuid.uuid5(uuid.NAMESPACE_DNS, "warehouse")),
        "serviceId": str(uuid.uuid5(uuid.NAMESPACE_DNS, name)) if is_service else None,
        "entityType": "service" if is_service else "datawarehouse",
        "entityId": str(uuid.uuid5(uuid.NAMESPACE_DNS, name)),
        "entityName": name,
        "organizationTier": "BASIC",
        "locked": locked,
        "totalCHC": float(exact),
        "discount": 0,
        "metrics": {metric: float(value) for metric, value in metrics.items()},
    }


def service(name: str, minutes: int, replicas: int, *, idle_scaling: bool = True) -> dict[str, Any]:
    """One service in the documented shape, with the fields that the project reads."""
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_DNS, name)),
        "name": name,
        "provider": "aws",
        "region": "us-west-2",
        "state": "idle",
        "endpoints": [{"protocol": "https", "host": f"{name}.us-west-2.aws.clickhouse.cloud", "port": 8443}],
        "minReplicaMemoryGb": 8,
        "maxReplicaMemoryGb": 8,
        "numReplicas": replicas,
        "idleScaling": idle_scaling,
        "idleTimeoutMinutes": minutes,
    }
