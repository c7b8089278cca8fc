"""No password or key in output, files, logs and arguments of push, grants and health."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from extract.clickhouse.settings import ClickHouseSettings
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from tests.push.conftest import Both
from tests.support.commands import UserShell, environment
from tests.support.edge import SERVER_PASSWORD, Edge
from tests.support.proxy import proxy_to

WRONG = "canary-of-a-wrong-password"
ROLE_PASSWORDS = {
    f"CLICKHOUSE_{role}_PASSWORD": f"canary-of-{role.lower()}" for role in ("LOADER", "TRANSFORMER", "READER")
}


@contextmanager
def watched() -> Iterator[set[str]]:
    """Collect the command lines of all processes that run in the block."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.02):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    seen.add(path.read_text(errors="replace"))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


@pytest.fixture
def shell(both: Both, clickhouse: ClickHouseSettings, edge: Edge, tmp_path: Path) -> Iterator[UserShell]:
    """A user with a password for cloud, over TLS without client certificates."""
    server = edge.authority.signed("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.cert, server.key)
    with proxy_to(edge.clickhouse.port, context) as proxy:
        cloud = {
            "CLICKHOUSE_CLOUD_HOST": "127.0.0.1",
            "CLICKHOUSE_CLOUD_PORT": str(proxy.port),
            "CLICKHOUSE_CLOUD_USER": edge.clickhouse.user,
            "CLICKHOUSE_CLOUD_PASSWORD": SERVER_PASSWORD,
            "CLICKHOUSE_CLOUD_CA_CERT": str(edge.authority.ca.cert),
            "CLICKHOUSE_CLOUD_WAKE_S": "0",
        }
        yield UserShell(environment(clickhouse, tmp_path) | cloud | ROLE_PASSWORDS)


@pytest.mark.slow
def test_no_secret_in_output_files_or_process_list(
    both: Both, shell: UserShell, edge: Edge, listed: Callable[[Tape], SandboxExchange], tmp_path: Path
) -> None:
    """Of commands that succeed and that fail: standard output and error, files, server logs, process list."""
    listed(Tape.generate(seed=6, trades=300, days=2))
    both.run("local", currencies=("BTC",))
    mutual = edge.env("loader")
    calls: list[tuple[int, tuple[str, ...], dict[str, str]]] = [
        (0, ("push",), {}),
        (3, ("push",), {"CLICKHOUSE_CLOUD_PASSWORD": WRONG}),
        (3, ("push",), mutual | {"CLICKHOUSE_CLOUD_CLIENT_KEY": mutual["CLICKHOUSE_CLOUD_CA_CERT"]}),
        (0, ("grants", "--print"), {}),
        (3, ("grants", "--apply"), {"CLICKHOUSE_CLOUD_PASSWORD": WRONG}),
        (1, ("health",), mutual | {"CLICKHOUSE_LOCAL_PASSWORD": WRONG}),
    ]
    with watched() as processes:
        for code, words, env in calls:
            done = shell.run("tape", *words, **env)
            assert done.code == code, (words, env.keys(), done.output)
            assert "Traceback" not in done.output
            assert "canary" not in done.output, words
            assert "PRIVATE KEY" not in done.output
    assert any("tape\0push" in line for line in processes)
    assert not [line for line in processes if "canary" in line]
    places = [path for home in (tmp_path, edge.home) for path in home.rglob("*") if path.is_file()]
    leaks = [p for p in places if b"canary" in (text := p.read_bytes()) or b"PRIVATE KEY" in text]
    assert [path for path in leaks if path.suffix != ".key"] == []
    both.cloud.command("system flush logs query_log")
    logged = "select count() from system.query_log where position(query, concat('cana', 'ry')) > 0"
    assert both.cloud.command(logged) == 0
