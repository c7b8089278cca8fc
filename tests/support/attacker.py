"""HTTP requests of an attacker to an embedded server: any header, any user, many queries over one connection."""

from __future__ import annotations

import base64
import http.client
import os
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from extract.clickhouse.embedded.home import ServerHome
from extract.clickhouse.embedded.server import embedded_server
from extract.clickhouse.roles import ROLES
from extract.clickhouse.settings import ClickHouseSettings
from harness.processes import children

SECRET = "hunter2-canary"


@dataclass(frozen=True)
class Response:
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: str


@dataclass
class Attacker:
    """One keep-alive connection with a user's credentials; `user` "" sends none."""

    settings: ClickHouseSettings
    user: str
    password: str
    _connection: http.client.HTTPConnection = field(init=False)

    def __post_init__(self) -> None:
        self._connection = http.client.HTTPConnection(self.settings.host, self.settings.port, timeout=60)

    def __del__(self) -> None:
        self._connection.close()

    def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Response:
        credentials = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        login = {"Authorization": f"Basic {credentials}"} if self.user else {}
        for is_last in (False, True):
            try:
                self._connection.request(
                    method, path, body=body or None, headers={**login, **(headers or {})}
                )
                response = self._connection.getresponse()
                text = response.read().decode("utf-8", "replace")
                names = {name.lower(): value for name, value in response.getheaders()}
                return Response(response.status, names, text)
            except (http.client.HTTPException, ConnectionError):
                self._connection.close()
                if is_last:
                    raise
        raise AssertionError("unreachable")

    def query(self, sql: str, data: bytes = b"", **settings: str) -> str:
        """Return the answer or the error message. `settings` go into the URL."""
        if not data:
            return self.request("POST", "/?" + urllib.parse.urlencode(settings), sql.encode()).body.strip()
        return self.request(
            "POST", "/?" + urllib.parse.urlencode({"query": sql, **settings}), data
        ).body.strip()


@dataclass(frozen=True)
class Target:
    """An embedded server with all roles. `canary` is a file with SECRET in the only tree that the engine writes."""

    settings: ClickHouseSettings
    home: ServerHome
    canary: Path

    def attacker(self, user: str) -> Attacker:
        is_role = user in [role.name for role in ROLES]
        return Attacker(self.settings, user, f"password-of-{user}" if is_role else self.settings.password)

    @property
    def supervisor_pid(self) -> int:
        pid = self.home.server_pid()
        assert pid is not None
        return pid

    @property
    def engine_pid(self) -> int:
        return children(self.supervisor_pid)[0]


@contextmanager
def target_server(tape_dir: Path) -> Iterator[Target]:
    """Run a server with users `tape`, loader, transformer and reader, and one table in each database."""
    with ExitStack() as stack:
        with (
            pytest.MonkeyPatch.context() as env
        ):  # not longer than the start, because other servers start meanwhile
            for role in ROLES:
                env.setenv(role.password_variable, f"password-of-{role.name}")
            settings = stack.enter_context(embedded_server(tape_dir))
        home = ServerHome(tape_dir)
        target = Target(settings, home, home.data / "canary.txt")
        target.canary.write_text(SECRET + "\n")
        os.utime(target.canary, (1, 1))
        owner = target.attacker(settings.user)
        for database in ("deribit_raw", "deribit", "deribit_runs"):
            owner.query(f"CREATE DATABASE {database}")
            owner.query(f"CREATE TABLE {database}.t (x String) ENGINE = MergeTree ORDER BY x")
            owner.query(f"INSERT INTO {database}.t VALUES ('row')")
        yield target


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """One server for all attacks that leave it unchanged; a test asserts that it survives."""
    with target_server(tmp_path_factory.mktemp("target")) as running:
        yield running


@pytest.fixture
def unharmed(target: Target) -> Iterator[None]:
    """After every attack the same engine process runs, and the canary is unchanged."""
    engine = target.engine_pid
    yield
    assert target.engine_pid == engine
    assert target.canary.read_text() == SECRET + "\n"
    assert target.canary.stat().st_mtime == 1
    assert target.attacker("reader").query("SELECT x FROM deribit_raw.t") == "row"
