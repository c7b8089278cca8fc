"""Fixtures of tests that start embedded servers, and queries as any user."""

from __future__ import annotations

import base64
import http.client
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from extract.clickhouse.embedded import server
from extract.clickhouse.embedded.probe import free_port
from extract.clickhouse.settings import LOCAL_USER, ClickHouseSettings


@pytest.fixture
def settings() -> ClickHouseSettings:
    """Settings of a server that is not running yet, on a free port."""
    return ClickHouseSettings("local", "127.0.0.1", free_port(), LOCAL_USER, "password-of-tape")


@pytest.fixture
def own_dir(tmp_path: Path) -> Iterator[Path]:
    """A TAPE_DIR in which a test may start a server, which is stopped afterwards."""
    yield tmp_path / "tape"
    server.down(tmp_path / "tape", timeout_s=5.0)


def ask(
    settings: ClickHouseSettings, sql: str, *, user: str | None = None, password: str | None = None
) -> str:
    """The answer to `sql` over HTTP, as text; an error is text too. `user` "" sends no credentials at all."""
    login = replace(settings, user=settings.user if user is None else user)
    key = settings.password if password is None else password
    headers = {}
    if login.user:
        headers["Authorization"] = "Basic " + base64.b64encode(f"{login.user}:{key}".encode()).decode()
    connection = http.client.HTTPConnection(settings.host, settings.port, timeout=20)
    try:
        connection.request("POST", "/", body=sql.encode(), headers=headers)
        return connection.getresponse().read().decode().strip()
    finally:
        connection.close()


@pytest.fixture
def query(clickhouse: ClickHouseSettings) -> Callable[..., str]:
    """`ask` bound to the shared server."""
    return lambda sql, **login: ask(clickhouse, sql, **login)
