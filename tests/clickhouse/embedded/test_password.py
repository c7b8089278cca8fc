"""Generated password of the embedded server: access to its file, and servers that receive it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from extract.clickhouse.client import open_client
from extract.clickhouse.embedded import server
from extract.clickhouse.embedded.home import ServerHome
from extract.clickhouse.embedded.probe import free_port
from extract.clickhouse.settings import ClickHouseSettings, clickhouse_settings
from extract.errors import FinalError, UsageError
from tests.support.attacker import Attacker
from tests.support.squatter import SquatterIPv6, squatting


@pytest.fixture
def user(own_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], ClickHouseSettings]:
    """The settings of a user with an empty TAPE_DIR, a free port and no other variable, read again at each call."""
    for name in ("HOST", "USER", "PASSWORD", "ALLOW_PLAIN_HTTP"):
        monkeypatch.delenv(f"CLICKHOUSE_LOCAL_{name}", raising=False)
    monkeypatch.setenv("TAPE_DIR", str(own_dir))
    monkeypatch.setenv("CLICKHOUSE_LOCAL_PORT", str(free_port()))
    return lambda: clickhouse_settings("local")


def test_first_start_creates_a_password_that_later_starts_use(
    user: Callable[[], ClickHouseSettings], own_dir: Path
) -> None:
    """It is long, in a file of the owner in a directory of the owner, and logs in after another start."""
    server.up(user(), own_dir)
    path = own_dir / "password"
    password = path.read_text().strip()
    assert len(password) >= 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert {own_dir: own_dir.stat().st_mode & 0o777} == {own_dir: 0o700}
    assert (own_dir / "log").stat().st_mode & 0o777 == 0o700
    server.down(own_dir)
    server.up(user(), own_dir)
    assert path.read_text().strip() == password
    with open_client(user()) as client:
        assert client.command("select currentUser()") == "tape"


@pytest.mark.parametrize("guess", ["tape-development", "", "tape", "password"])
def test_no_documented_password_logs_in(
    user: Callable[[], ClickHouseSettings], own_dir: Path, guess: str
) -> None:
    server.up(user(), own_dir)
    assert "Code: 516" in Attacker(user(), "tape", guess).query("SELECT 1")


def test_password_of_the_environment_takes_precedence(
    user: Callable[[], ClickHouseSettings], own_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLICKHOUSE_LOCAL_PASSWORD", "one-of-my-own")
    server.up(user(), own_dir)
    assert Attacker(user(), "tape", "one-of-my-own").query("SELECT 1") == "1"
    assert not (own_dir / "password").exists()


def test_other_server_does_not_receive_the_password(
    user: Callable[[], ClickHouseSettings], own_dir: Path
) -> None:
    """Neither `tape up` nor a client sends it to a program that took the port, before or after a start."""
    server.up(user(), own_dir)
    server.down(own_dir)
    password = (own_dir / "password").read_text().strip()
    with squatting(user().port) as squatter:
        for connect in (lambda: open_client(user()), lambda: server.up(user(), own_dir)):
            with pytest.raises(
                UsageError, match="was not started by `tape up`, so it does not get the password"
            ):
                connect()
    assert not [text for text in squatter.received if "Authorization" in text or password in text]


def test_server_at_another_port_does_not_receive_the_password(
    user: Callable[[], ClickHouseSettings], own_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This holds even while the user's own server runs at its port."""
    server.up(user(), own_dir)
    monkeypatch.setenv("CLICKHOUSE_LOCAL_PORT", str(free_port()))
    with squatting(user().port) as squatter:
        for connect in (lambda: open_client(user()), lambda: server.up(user(), own_dir)):
            with pytest.raises(UsageError):
                connect()
    assert not [text for text in squatter.received if "Authorization" in text]


def test_localhost_is_one_address(
    user: Callable[[], ClickHouseSettings], own_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program at the same port of ::1 gets no request, although localhost resolves to ::1 first."""
    resolve = socket.getaddrinfo

    def ipv6_first(host: str, port: int, *rest: object, **options: object) -> object:
        return resolve("::1" if host == "localhost" else host, port, *rest, **options)  # type: ignore[arg-type]  # passed on

    monkeypatch.setenv("CLICKHOUSE_LOCAL_HOST", "localhost")
    monkeypatch.setenv("CLICKHOUSE_LOCAL_PASSWORD", "one-of-my-own")
    try:
        squatter = SquatterIPv6("::1", user().port)
    except OSError:
        pytest.skip("this machine has no ::1")
    squatter.server_close()
    with squatting(user().port, SquatterIPv6, "::1") as listening:
        monkeypatch.setattr(socket, "getaddrinfo", ipv6_first)
        assert server.up(user(), own_dir).state is server.State.STARTED
        with open_client(user()) as client:
            assert client.command("select 1") == 1
        assert listening.received == []


def test_password_beyond_loopback_needs_permission(
    user: Callable[[], ClickHouseSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain HTTP would expose the password on the network."""
    monkeypatch.setenv("CLICKHOUSE_LOCAL_HOST", "db.example")
    with pytest.raises(UsageError, match="CLICKHOUSE_LOCAL_PASSWORD is not set"):
        user()
    monkeypatch.setenv("CLICKHOUSE_LOCAL_PASSWORD", "one-of-my-own")
    with pytest.raises(
        UsageError, match=r"over plain HTTP.* or allow it by CLICKHOUSE_LOCAL_ALLOW_PLAIN_HTTP=1"
    ):
        user()
    monkeypatch.setenv("CLICKHOUSE_LOCAL_ALLOW_PLAIN_HTTP", "1")
    assert user().host == "db.example"


def test_unconfined_server_needs_a_secret_password(
    user: Callable[[], ClickHouseSettings], own_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without Landlock it does not start with a documented or short password; with a random one it prints a note."""
    monkeypatch.setattr(server, "abi_version", lambda: 0)
    for password in ("tape-development", "x7"):
        with pytest.raises(
            UsageError, match="unset CLICKHOUSE_LOCAL_PASSWORD, and a random one is generated"
        ):
            server.up(replace(user(), password=password, is_generated=False), own_dir)
    outcome = server.up(user(), own_dir)
    assert outcome.state is server.State.STARTED
    assert "can read any of your files by INSERT … FROM INFILE" in outcome.note


@pytest.mark.parametrize("content", [b"", b"rubbish", b"\xff\x00", b"1 2 3", b"99999999999999999999"])
def test_damaged_lock_file_is_reported_in_one_sentence(
    user: Callable[[], ClickHouseSettings], own_dir: Path, content: bytes
) -> None:
    """The file is that of a running server; a damaged file that is not locked is ignored."""
    server.up(user(), own_dir)
    path = ServerHome(own_dir).path / "server.lock"
    intact = path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(FinalError, match="is locked, but does not name a process"):
        server.down(own_dir)
    path.write_bytes(intact)
    assert server.down(own_dir).state is server.State.STOPPED
    path.write_bytes(content)
    assert server.down(own_dir).state is server.State.NOT_RUNNING
