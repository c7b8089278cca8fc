"""Certificate rotation and revocation on a real edge that is reloaded: no valid client is ever rejected."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from extract.certs.store import CertificateStore
from extract.clickhouse.client import open_client
from extract.clickhouse.settings import ClickHouseSettings
from extract.errors import TapeError, UsageError
from tests.support.edge import CADDYFILE, START_TIMEOUT_S, Caddy, Edge, needs_caddy, running_edge

pytestmark = needs_caddy


@dataclass
class Operator:
    """The operator of an edge: runs `tape certs`, copies files to clients and reloads the edge."""

    store: CertificateStore
    caddy: Caddy
    home: Path

    def client(self, name: str) -> ClickHouseSettings:
        """Settings of a client with a copy of the current certificate files."""
        directory = self.home / name
        directory.mkdir()
        for file in ("trusted.pem", "loader.pem", "loader.key"):
            shutil.copy(self.store.path(file), directory / file)
        files = {"ca_cert": "trusted.pem", "client_cert": "loader.pem", "client_key": "loader.key"}
        paths = {field: str(directory / file) for field, file in files.items()}
        return ClickHouseSettings("cloud", "127.0.0.1", self.caddy.port, "loader", "", True, **paths)

    def reload(self) -> None:
        command = ["caddy", "reload", "--force", "--config", str(CADDYFILE)]
        done = subprocess.run(command, env=self.caddy.env, capture_output=True, text=True, timeout=20)
        assert done.returncode == 0, done.stderr


@pytest.fixture
def operator(edge: Edge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Operator]:
    """A separate edge that reads the directory of `tape certs` and is reloaded over its admin socket."""
    monkeypatch.setenv("TAPE_DIR", str(tmp_path))
    store = CertificateStore("production")
    store.init(["127.0.0.1"])
    socket = f"unix/{tmp_path}/admin.sock"
    with running_edge(tmp_path, store.directory, edge.clickhouse, TAPE_EDGE_ADMIN=socket) as caddy:
        yield Operator(store, caddy, tmp_path)


def works(settings: ClickHouseSettings) -> bool:
    with open_client(settings) as client:
        return client.command("select 1") == 1


def refusal(settings: ClickHouseSettings) -> str:
    with pytest.raises(UsageError) as raised:
        open_client(settings)
    return str(raised.value)


@dataclass
class RepeatedQueries:
    """A client in a thread that queries repeatedly, with a new connection each time."""

    settings: ClickHouseSettings
    failures: list[TapeError] = field(default_factory=list)
    attempts: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> RepeatedQueries:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.attempts += 1
            try:
                works(self.settings)
            except TapeError as error:
                self.failures.append(error)

    def wait(self) -> None:
        """Return after three more queries."""
        enough, deadline_s = self.attempts + 3, time.monotonic() + START_TIMEOUT_S
        while self.attempts < enough:
            assert time.monotonic() < deadline_s, "the client has stopped querying"
            time.sleep(0.01)


def test_old_and_new_are_valid_together_until_the_old_are_revoked(operator: Operator) -> None:
    """Rotate, distribute, revoke: clients with the previous files work until the old authority is revoked."""
    old = operator.client("old")
    assert works(old)
    with RepeatedQueries(old) as client:
        operator.store.rotate()
        operator.reload()
        new = operator.client("new")
        assert works(new)
        assert works(old)
        client.wait()
    assert client.attempts > 2
    assert client.failures == []
    with RepeatedQueries(new) as client:
        operator.store.revoke()
        operator.reload()
        assert works(new)
        client.wait()
    assert client.attempts > 2
    assert client.failures == []
    # A client with the new trusted.pem and its old certificate trusts the server, and is rejected by it.
    halfway = ClickHouseSettings(**{**vars(old), "ca_cert": new.ca_cert})
    assert "was revoked: 127.0.0.1 has changed its authority since" in refusal(halfway)
    assert "signed by an unknown authority" in refusal(old)


def test_revoke_now_rejects_every_earlier_certificate(operator: Operator) -> None:
    """After a theft, `revoke --now` and a reload reject the stolen certificate; a newly issued one works."""
    stolen = operator.client("stolen")
    assert works(stolen)
    operator.store.revoke(now=True)
    operator.reload()
    fresh = operator.client("fresh")
    assert works(fresh)
    assert "was revoked" in refusal(ClickHouseSettings(**{**vars(stolen), "ca_cert": fresh.ca_cert}))


def test_a_renewed_certificate_leaves_the_old_one_valid(operator: Operator) -> None:
    """`issue loader` needs no change of the edge, which accepts both certificates."""
    old = operator.client("old")
    operator.store.issue("loader")
    new = operator.client("new")
    assert Path(str(old.client_cert)).read_bytes() != Path(str(new.client_cert)).read_bytes()
    assert works(old)
    assert works(new)


def test_server_certificate_is_rejected_as_a_client_certificate(operator: Operator) -> None:
    """A thief of the edge's own certificate and key cannot log in with them."""
    thief = operator.client("thief")
    server = {name: str(operator.store.path(f"server.{kind}")) for name, kind in
              (("client_cert", "pem"), ("client_key", "key"))}  # fmt: skip
    assert "is not a client certificate; use the one of a role." in refusal(
        ClickHouseSettings(**{**vars(thief), **server})
    )
