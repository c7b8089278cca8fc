"""Fake exchange as an httpx transport, whose answers, for example contradictory ones, are computed by a function."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx

from extract.deribit.client import DeribitClient
from extract.deribit.config import DeribitConfig
from extract.deribit.rate_limit import RateLimiter
from extract.retry import Retrier, RetryPolicy

Answer = Callable[[str, dict[str, str]], "dict[str, Any] | httpx.Response"]


class Endless(BaseException):
    """Too many requests: the code under test does not end."""


def client_of(answer: Answer, *, most: int = 500, attempts: int = 4, **settings: Any) -> DeribitClient:
    """A client whose requests are answered by `answer(method, params)`: an envelope or a whole response."""
    left = iter(range(most))

    def handle(request: httpx.Request) -> httpx.Response:
        if next(left, None) is None:
            raise Endless
        response = answer(request.url.path.rpartition("/")[2], dict(request.url.params))
        return (
            response
            if isinstance(response, httpx.Response)
            else httpx.Response(200, text=json.dumps(response))
        )

    return DeribitClient(
        DeribitConfig(
            **({"api_url": "http://live.test/api", "history_url": "http://old.test/api"} | settings)
        ),
        transport=httpx.MockTransport(handle),
        retrier=Retrier(RetryPolicy(attempts=attempts, first_s=0.0), sleep=lambda seconds: None),
        limiter=RateLimiter(1e6),
    )


def page(trades: list[dict[str, Any]], *, more: bool = False, **envelope: Any) -> dict[str, Any]:
    return {"result": {"trades": trades, "has_more": more}} | envelope
