"""An embedded server for the length of a `with` block, on a free port: for tests and other short work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from extract.clickhouse import server
from extract.clickhouse.server_probe import free_port
from extract.clickhouse.settings import LOCAL_DEVELOPMENT_PASSWORD, LOCAL_USER, ClickHouseSettings


@contextmanager
def embedded_server(
    tape_dir: Path, *, user: str = LOCAL_USER, password: str = LOCAL_DEVELOPMENT_PASSWORD, tcp: bool = False
) -> Iterator[ClickHouseSettings]:
    """A server of its own with its data in `tape_dir`, stopped at the end however that comes, kill -9 included."""
    ours, servers = os.pipe()
    settings = ClickHouseSettings("local", "127.0.0.1", free_port(), user, password)
    try:
        server.up(settings, tape_dir, tcp_port=free_port() if tcp else None, stop_with_us=ours)
        yield settings
    finally:
        server.down(tape_dir, timeout_s=10.0)
        os.close(servers)
        os.close(ours)
