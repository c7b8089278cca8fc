"""The HTTP API on a free port of loopback, in a thread of the test process, and a client for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import uvicorn

from extract.clickhouse.settings import READER, ClickHouseSettings
from extract.serve.app import create_app
from extract.serve.keys import KeyRing
from extract.serve.reader import open_reader
from extract.serve.server import uvicorn_config
from tests.support.waiting import wait_until


def reader_of(clickhouse: ClickHouseSettings, base: Path) -> ClickHouseSettings:
    """The login of the role reader at the server of the fixture `clickhouse`; `base`: pytest's directory."""
    [file] = base.glob("clickhouse[0-9]/reader-password")
    return replace(clickhouse, user=READER, password=file.read_text().strip())


@contextmanager
def running_api(
    settings: ClickHouseSettings, *, keys: KeyRing | None = None, is_loopback: bool = True
) -> Iterator[httpx.Client]:
    """Run the API; its client has the address of the server."""
    app = create_app(open_reader(settings), settings, keys=keys, is_loopback=is_loopback)
    server = uvicorn.Server(uvicorn_config(app))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive())
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def reader_login(
    clickhouse: ClickHouseSettings, tmp_path_factory: pytest.TempPathFactory
) -> ClickHouseSettings:
    """The tests' server, logged in as the role reader."""
    return reader_of(clickhouse, tmp_path_factory.getbasetemp())
