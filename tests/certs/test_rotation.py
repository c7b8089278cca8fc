"""Rotation and revocation through a real edge that is reloaded: no client is refused that should not be."""

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
    """Who runs the edge: `tape certs`, and the files brought to where they belong."""

    store: CertificateStore
    caddy: Caddy
    home: Path

    def client(self, name: str) -> ClickHouseSettings:
        """A client's machine that gets today's files: a copy of its own."""
        own = self.home / name
        own.mkdir()
        for file in ("trusted.pem", "loader.pem", "loader.key"):
            shutil.copy(self.store.path(file), own / file)
        files = {"ca_cert": "trusted.pem", "client_cert": "loader.pem", "client_key": "loader.key"}
        paths = {field: str(own / file) for field, file in files.items()}
        return ClickHouseSettings("cloud", "127.0.0.1", self.caddy.port, "loader", "", True, **paths)

    def reload(self) -> None:
        command = ["caddy", "reload", "--force", "--config", str(CADDYFILE)]
        done = subprocess.run(command, env=self.caddy.env, capture_output=True, text=True, timeout=20)
        assert done.returncode == 0, done.stderr


@pytest.fixture
def operator(edge: Edge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Operator]:
    """An edge of its own that reads `tape certs`'s directory, reloaded over its socket."""
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
class Knocking:
    """A client that comes again and again, with a new connection each time, while other things go on."""

    settings: ClickHouseSettings
    failures: list[TapeError] = field(default_factory=list)
    times: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Knocking:
        self._thread = threading.Thread(target=self._knock)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _knock(self) -> None:
        while not self._stop.is_set():
            self.times += 1
            try:
                works(self.settings)
            except TapeError as error:
                self.failures.append(error)

    def wait(self) -> None:
        """Returns once it has come thrice more."""
        enough, deadline_s = self.times + 3, time.monotonic() + START_TIMEOUT_S
        while self.times < enough:
            assert time.monotonic() < deadline_s, "nobody knocks any more"
            time.sleep(0.01)


def test_old_and_new_are_valid_together_until_the_old_are_revoked(operator: Operator) -> None:
    """Rotate, bring out, revoke: who has the files of the step before works on all the way; then old ones are refused."""
    old = operator.client("old")
    assert works(old)
    with Knocking(old) as knocking:
        operator.store.rotate()
        operator.reload()
        new = operator.client("new")
        assert works(new)
        assert works(old)
        knocking.wait()
    assert knocking.times > 2
    assert knocking.failures == []
    with Knocking(new) as knocking:
        operator.store.revoke()
        operator.reload()
        assert works(new)
        knocking.wait()
    assert knocking.times > 2
    assert knocking.failures == []
    # The old client with the new trust knows the server, but its certificate counts no more.
    halfway = ClickHouseSettings(**{**vars(old), "ca_cert": new.ca_cert})
    assert "was revoked: 127.0.0.1 has changed its authority since" in refusal(halfway)
    assert "signed by an unknown authority" in refusal(old)


def test_a_stolen_key_is_refused_at_once(operator: Operator) -> None:
    """`revoke --now`: nothing that was issued before opens the edge."""
    stolen = operator.client("stolen")
    assert works(stolen)
    operator.store.revoke(now=True)
    operator.reload()
    fresh = operator.client("fresh")
    assert works(fresh)
    assert "was revoked" in refusal(ClickHouseSettings(**{**vars(stolen), "ca_cert": fresh.ca_cert}))


def test_a_renewed_certificate_leaves_the_old_one_valid(operator: Operator) -> None:
    """`issue loader`: the edge needs nothing, and both open it."""
    old = operator.client("old")
    operator.store.issue("loader")
    new = operator.client("new")
    assert Path(str(old.client_cert)).read_bytes() != Path(str(new.client_cert)).read_bytes()
    assert works(old)
    assert works(new)


def test_the_edge_s_certificate_is_none_of_a_client(operator: Operator) -> None:
    """Who takes it from the edge's host cannot come in with it."""
    own = operator.client("thief")
    server = {name: str(operator.store.path(f"server.{kind}")) for name, kind in
              (("client_cert", "pem"), ("client_key", "key"))}  # fmt: skip
    assert "is not a client certificate; use the one of a role." in refusal(
        ClickHouseSettings(**{**vars(own), **server})
    )
