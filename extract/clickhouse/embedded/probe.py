"""Probe an address: whether ClickHouse listens there and accepts the configured user."""

from __future__ import annotations

import base64
import http.client
import socket
from dataclasses import dataclass
from enum import Enum

from extract.clickhouse.errors import AUTHENTICATION_CODES
from extract.clickhouse.settings import ClickHouseSettings


class Answer(Enum):
    NOTHING = "nothing listens"
    CLICKHOUSE = "ClickHouse accepts the configured user"
    WRONG_PASSWORD = "ClickHouse rejects user or password"
    ERROR = "ClickHouse returns an error"
    NOT_CLICKHOUSE = "another kind of server listens"


@dataclass(frozen=True)
class Probe:
    """`detail`: the version of a ClickHouse that accepts the user, or the error message of one that fails."""

    answer: Answer
    detail: str = ""


def probe(settings: ClickHouseSettings, *, timeout_s: float = 5.0) -> Probe:
    """Request `/ping` first, so that only a ClickHouse receives the password, then query the version."""
    try:
        status, _, body = _request(settings, "GET", "/ping", timeout_s=timeout_s)
        if status != 200 or body.strip() != "Ok.":
            return Probe(Answer.NOT_CLICKHOUSE)
        credentials = base64.b64encode(f"{settings.user}:{settings.password}".encode()).decode()
        headers = {"Authorization": f"Basic {credentials}"}
        status, error_code, body = _request(
            settings, "POST", "/", "SELECT version()", headers, timeout_s=timeout_s
        )
    except (ConnectionRefusedError, socket.gaierror):
        return Probe(Answer.NOTHING)
    except (OSError, http.client.HTTPException):
        return Probe(Answer.NOT_CLICKHOUSE)
    if status == 200:
        return Probe(Answer.CLICKHOUSE, body.strip())
    if error_code in map(str, AUTHENTICATION_CODES):
        return Probe(Answer.WRONG_PASSWORD)
    return Probe(Answer.ERROR, body.strip().partition("\n")[0][:300])


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Return a loopback port that is unused at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _request(
    settings: ClickHouseSettings,
    method: str,
    path: str,
    body: str | None = None,
    headers: dict[str, str] | None = None,
    *,
    timeout_s: float,
) -> tuple[int, str, str]:
    """Return the status, ClickHouse's error code ("" for none) and at most 64 KiB of the body."""
    connection = http.client.HTTPConnection(settings.host, settings.port, timeout=timeout_s)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        response = connection.getresponse()
        text = response.read(65536).decode("utf-8", "replace")
        return response.status, response.getheader("X-ClickHouse-Exception-Code") or "", text
    finally:
        connection.close()
