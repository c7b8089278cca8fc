"""Checks before every route: host name, origin, key and rate limit; and header fields of safety, and counters."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from extract.serve.errors import ApiError
from extract.serve.keys import KeyRing

LOOPBACK_NAME = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?", re.IGNORECASE)
"""Requests for another name are refused on loopback: a web page can point its own name at 127.0.0.1 (DNS rebinding)."""
WITHOUT_KEY = re.compile(
    r"/(health|docs|openapi\.json|assets/.*|favicon\.ico|[a-z0-9_-]+\.(html|css|js|svg|png|ico))?"
)
"""Paths that need no key: they have no data of the tape."""
SAFETY: Mapping[str, str] = {
    # Nothing inline and nothing from elsewhere: scripts set styles of elements through the DOM, which is allowed.
    "Content-Security-Policy": (
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Guard:
    """ASGI middleware. `keys`: None on loopback without a key file."""

    def __init__(
        self, app: ASGIApp, *, keys: KeyRing | None, is_loopback: bool, registry: CollectorRegistry
    ) -> None:
        self.app, self.keys, self.is_loopback = app, keys, is_loopback
        self.requests = Counter(
            "tape_requests", "Requests by route and status.", ("route", "status"), registry=registry
        )
        self.seconds = Histogram(
            "tape_request_seconds", "Seconds of requests by route.", ("route",), registry=registry
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 500

        async def send_safely(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in SAFETY.items():
                    headers.setdefault(name, value)
                if status >= 400:
                    headers["Cache-Control"] = "no-store"
            await send(message)

        try:
            self._admit(scope)
        except ApiError as error:
            await error.response()(scope, receive, send_safely)
        else:
            await self.app(scope, receive, send_safely)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.requests.labels(route, str(status)).inc()
            self.seconds.labels(route).observe(time.perf_counter() - began)

    def _admit(self, scope: Scope) -> None:
        """Raise ApiError for a request that is not let through."""
        headers = Headers(scope=scope)
        if self.is_loopback and not LOOPBACK_NAME.fullmatch(headers.get("host", "")):
            raise ApiError(
                "forbidden", "This server answers requests for localhost, 127.0.0.1 or [::1] only."
            )
        is_page = scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not is_page:
            raise ApiError("forbidden", "Requests from other web sites are not answered.")
        if self.keys is None or WITHOUT_KEY.fullmatch(scope["path"]):
            return
        scheme, _, key = headers.get("authorization", "").partition(" ")
        owner = self.keys.owner(key.strip()) if scheme.lower() == "bearer" else None
        if owner is None:
            raise ApiError(
                "unauthorized",
                "The key is missing or wrong; send it as `Authorization: Bearer KEY`.",
                {"WWW-Authenticate": "Bearer"},
            )
        if wait_s := self.keys.wait_s(owner):
            raise ApiError(
                "rate_limited",
                "This key has too many requests; wait.",
                {"Retry-After": str(max(1, round(wait_s)))},
            )
