"""Transport to a sandbox exchange that answers chosen requests itself, or alters the exchange's answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx

Alter = Callable[[str, dict[str, str], bool], Any]
"""Result for a method, its parameters and whether it is sent to the history host; None for the exchange's own answer.

An httpx.Response replaces the whole answer, and a function receives the exchange's result and returns another one.
"""


class AlteredExchange(httpx.BaseTransport):
    """Forwards each request, unless `alter` returns something; `requests` has all of them."""

    def __init__(self, alter: Alter = lambda method, params, is_history: None) -> None:
        self.alter = alter
        self.requests: list[tuple[str, dict[str, str], bool]] = []
        self._transport = httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        asked = (
            request.url.path.rpartition("/")[2],
            dict(request.url.params),
            "/history/" in request.url.path,
        )
        self.requests.append(asked)
        altered = self.alter(*asked)
        if isinstance(altered, httpx.Response):
            return altered
        if altered is not None and not callable(altered):
            return httpx.Response(200, text=json.dumps({"result": altered}))
        response = self._transport.handle_request(request)
        if altered is None:
            return response
        envelope = json.loads(response.read())
        if "result" in envelope:
            envelope["result"] = altered(envelope["result"])
        return httpx.Response(response.status_code, text=json.dumps(envelope))

    def close(self) -> None:
        self._transport.close()
