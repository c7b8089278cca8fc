"""The edge: a second ClickHouse behind a real Caddy with `deploy/edge/Caddyfile`, as the target cloud is."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from extract.certs import ROLES
from extract.clickhouse.embedded.probe import free_port
from extract.clickhouse.embedded.server import embedded_server
from extract.clickhouse.settings import ClickHouseSettings
from extract.paths import ROOT
from tests.support.certificates import Authority, Certificate

CADDYFILE = ROOT / "deploy/edge/Caddyfile"
AUTHORITY = "/O=deribit-tape/OU=test/CN=test authority"
"""As `tape certs` names one, with a number of its own at the end."""
SERVER_PASSWORD = "canary-of-the-edge-server"
START_TIMEOUT_S = 10

needs_caddy = pytest.mark.skipif(
    not all(shutil.which(command) for command in ("caddy", "openssl", "setpriv")),
    reason="needs the commands caddy, openssl and setpriv; on Debian: apt-get install caddy openssl",
)


@dataclass(frozen=True)
class Edge:
    """A running edge. `clickhouse` is the way around it: the server that stands behind."""

    clickhouse: ClickHouseSettings
    authority: Authority
    certs: Path
    home: Path
    port: int
    caddy: subprocess.Popen[bytes]

    def env(self, role: str = "loader", *, certificate: Certificate | None = None) -> dict[str, str]:
        """The environment of a user of the target cloud whose certificate is `role`'s, or the one given."""
        certificate = certificate or self.authority.signed(role)
        return {
            "CLICKHOUSE_CLOUD_HOST": "127.0.0.1",
            "CLICKHOUSE_CLOUD_PORT": str(self.port),
            "CLICKHOUSE_CLOUD_USER": role,
            "CLICKHOUSE_CLOUD_CA_CERT": str(self.authority.ca.cert),
            "CLICKHOUSE_CLOUD_CLIENT_CERT": str(certificate.cert),
            "CLICKHOUSE_CLOUD_CLIENT_KEY": str(certificate.key),
        }


@pytest.fixture(scope="session")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """One for each test process, started when first asked for; skips where there is no Caddy."""
    if needs_caddy.args[0]:
        pytest.skip(needs_caddy.kwargs["reason"])
    home = tmp_path_factory.mktemp("edge")
    authority = Authority(home / "authority", f"{AUTHORITY} 1")
    certs = home / "certs"
    lay_out(authority, certs)
    with (
        embedded_server(tmp_path_factory.mktemp("cloud"), password=SERVER_PASSWORD) as clickhouse,
        running_edge(home, certs, clickhouse) as caddy,
    ):
        yield Edge(clickhouse, authority, certs, home, caddy.port, caddy.process)


def lay_out(authority: Authority, certs: Path) -> None:
    """The four files that the edge reads, under the names that it knows."""
    certs.mkdir()
    server = authority.signed("server")
    for made, name in (
        (authority.ca.cert, "ca.pem"),
        (authority.ca.cert, "ca-before.pem"),
        (server.cert, "server.pem"),
        (server.key, "server.key"),
    ):
        shutil.copy(made, certs / name)


@dataclass(frozen=True)
class Caddy:
    """One that runs: `env` is what it was started with."""

    port: int
    process: subprocess.Popen[bytes]
    env: dict[str, str]


@contextmanager
def running_edge(home: Path, certs: Path, clickhouse: ClickHouseSettings, **env: str) -> Iterator[Caddy]:
    """Caddy before `clickhouse` for the length of the block. `env` is added to its environment."""
    port = free_port()
    users = {f"TAPE_EDGE_{role.upper()}_USER": clickhouse.user for role in ROLES}
    keys = {f"TAPE_EDGE_{role.upper()}_KEY": clickhouse.password for role in ROLES}
    own = {
        "HOME": str(home),
        "TAPE_EDGE_ADMIN": "off",
        "TAPE_EDGE_PORT": str(port),
        "TAPE_EDGE_CERTS": str(certs),
        "TAPE_EDGE_CLICKHOUSE": f"{clickhouse.host}:{clickhouse.port}",
    }
    env = own | users | keys | env
    with (home / "caddy.log").open("wb") as log:
        # It ends with this process, however that ends.
        command = ["setpriv", "--pdeathsig", "TERM", "caddy", "run", "--config", str(CADDYFILE)]
        caddy = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=home)
    try:
        _wait(caddy, port, home / "caddy.log")
        yield Caddy(port, caddy, env)
    finally:
        caddy.terminate()
        caddy.wait(START_TIMEOUT_S)


def _wait(caddy: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        assert caddy.poll() is None, f"Caddy ended: {log.read_text()[-2000:]}"
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.02)
    raise AssertionError(f"Caddy does not listen: {log.read_text()[-2000:]}")
