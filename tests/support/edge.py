"""The edge: a second ClickHouse behind a real Caddy with `deploy/edge/Caddyfile`, as the cloud target."""

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
"""Subject of an authority of `tape certs`, without the number at its end."""
SERVER_PASSWORD = "canary-of-the-edge-server"
START_TIMEOUT_S = 10

needs_caddy = pytest.mark.skipif(
    not all(shutil.which(command) for command in ("caddy", "openssl", "setpriv")),
    reason="needs the commands caddy, openssl and setpriv; on Debian: apt-get install caddy openssl",
)


@dataclass(frozen=True)
class Edge:
    """A running edge; `clickhouse` are the settings of the server behind it, for direct access."""

    clickhouse: ClickHouseSettings
    authority: Authority
    certs: Path
    home: Path
    port: int
    caddy: subprocess.Popen[bytes]

    def env(self, role: str = "loader", *, certificate: Certificate | None = None) -> dict[str, str]:
        """Environment of a user of the cloud target with `certificate`, by default a new one of `role`."""
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
    """The edge of this test process, started on first use; skips the test without Caddy."""
    if needs_caddy.args[0]:
        pytest.skip(needs_caddy.kwargs["reason"])
    home = tmp_path_factory.mktemp("edge")
    authority = Authority(home / "authority", f"{AUTHORITY} 1")
    certs = home / "certs"
    install_certificates(authority, certs)
    with (
        embedded_server(tmp_path_factory.mktemp("cloud"), password=SERVER_PASSWORD) as clickhouse,
        running_edge(home, certs, clickhouse) as caddy,
    ):
        yield Edge(clickhouse, authority, certs, home, caddy.port, caddy.process)


def install_certificates(authority: Authority, certs: Path) -> None:
    """Copy the four files that the edge reads into `certs`."""
    certs.mkdir()
    server = authority.signed("server")
    for source, name in (
        (authority.ca.cert, "ca.pem"),
        (authority.ca.cert, "ca-before.pem"),
        (server.cert, "server.pem"),
        (server.key, "server.key"),
    ):
        shutil.copy(source, certs / name)


@dataclass(frozen=True)
class Caddy:
    """A running Caddy; `env` is its environment."""

    port: int
    process: subprocess.Popen[bytes]
    env: dict[str, str]


@contextmanager
def running_edge(home: Path, certs: Path, clickhouse: ClickHouseSettings, **env: str) -> Iterator[Caddy]:
    """Run Caddy in front of `clickhouse` during the block; `env` is added to its environment."""
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
        # Caddy is terminated with this process.
        command = ["setpriv", "--pdeathsig", "TERM", "caddy", "run", "--config", str(CADDYFILE)]
        caddy = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=home)
    try:
        _wait_until_it_listens(caddy, port, home / "caddy.log")
        yield Caddy(port, caddy, env)
    finally:
        caddy.terminate()
        caddy.wait(START_TIMEOUT_S)


def _wait_until_it_listens(caddy: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        assert caddy.poll() is None, f"Caddy ended: {log.read_text()[-2000:]}"
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.02)
    raise AssertionError(f"Caddy does not listen: {log.read_text()[-2000:]}")
