"""Start and stop the embedded ClickHouse: the engine of the chdb-core wheel in a separate process.

    up(clickhouse_settings("local"), tape_dir())
    down(tape_dir())

A ClickHouse started by other means at the same host and port is used and never stopped. `home` describes the files,
`config` the users and their rights.
"""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from extract.background import wait_until
from extract.clickhouse.embedded.config import require_renderable
from extract.clickhouse.embedded.confine import abi_version
from extract.clickhouse.embedded.home import ServerHome
from extract.clickhouse.embedded.launch import exit_status, launch
from extract.clickhouse.embedded.password import MIN_LENGTH, ensure_password, is_public, require_own_server
from extract.clickhouse.embedded.probe import Answer, Probe, free_port, port_is_free, probe
from extract.clickhouse.settings import LOCAL_USER, ClickHouseSettings
from extract.errors import FinalError, UsageError

DEFAULT_TCP_PORT = 9000
MIN_FREE_BYTES = 256 * 1024**2
UNCONFINED = (
    "this system cannot confine the server's process, so a user who may insert can read any of your files "
    "by INSERT … FROM INFILE: keep the password secret"
)
NEEDS_PASSWORD = (
    "This system cannot confine the server's process, so it does not start with a short or documented password: "
    f"unset CLICKHOUSE_LOCAL_PASSWORD, and a random one is generated, or set one of at least {MIN_LENGTH} characters."
)


class State(Enum):
    STARTED = "started"
    ALREADY_UP = "already up"
    EXTERNAL = "external"
    STOPPED = "stopped"
    KILLED = "killed"
    NOT_RUNNING = "not running"


@dataclass(frozen=True)
class Up:
    """A ClickHouse that accepts the configured user; `note` is a clause to print."""

    state: State
    version: str
    data_dir: Path
    note: str = ""


@dataclass(frozen=True)
class Down:
    state: State
    waited_s: float = 0.0


def up(
    settings: ClickHouseSettings,
    tape_dir: Path,
    *,
    tcp_port: int | None = None,
    stop_with_fd: int | None = None,
    timeout_s: float = 60.0,
    min_free_bytes: int = MIN_FREE_BYTES,
) -> Up:
    """Return once a ClickHouse accepts `settings`; start one if nothing listens there.

    `tcp_port`: port of the native protocol, used if it is free. `stop_with_fd`: a file descriptor; the server
    stops when it reaches its end.

    Raises UsageError (wrong password or configuration), FinalError (port in use, disk full, stopped while
    starting) or RetriableError (no answer within `timeout_s`).
    """
    home = ServerHome(tape_dir)
    require_renderable(settings)
    if not settings.is_loopback:
        why = f"{settings.host} is not a loopback address, so no server can be started there"
        return _use_external(settings, home, why)
    with home.disk_errors(), home.exclusive(timeout_s):
        if settings.is_generated:
            settings = replace(settings, password=ensure_password(tape_dir))
        if home.server_pid() is not None:
            return _use_running(settings, home)
        if settings.is_generated:
            require_own_server(tape_dir, settings.host, settings.port)
        if probe(settings).answer is not Answer.NOTHING:
            return _use_external(
                settings,
                home,
                "it was not started by `tape up`, so it is used without changes and never stopped",
            )
        is_confined = bool(abi_version())
        if not is_confined and is_public(settings.password):
            raise UsageError(NEEDS_PASSWORD)
        home.require_space(min_free_bytes)
        notes = [] if is_confined else [UNCONFINED]
        if tcp_port is not None and not port_is_free(tcp_port):
            notes.append(
                f"port {tcp_port} is in use, so the native protocol is off; this project does not need it"
            )
            tcp_port = None
        version = launch(settings, home, tcp_port=tcp_port, stop_with_fd=stop_with_fd, timeout_s=timeout_s)
        return Up(State.STARTED, version, home.data, "; ".join(notes))


def down(tape_dir: Path, *, timeout_s: float = 30.0) -> Down:
    """Stop the server that `up` started and wait until it has ended; kill it after `timeout_s`."""
    home = ServerHome(tape_dir)
    if not home.path.is_dir():
        return Down(State.NOT_RUNNING)
    with home.disk_errors(), home.exclusive(timeout_s):
        pid = home.server_pid()
        if pid is None:
            return Down(State.NOT_RUNNING)
        began = time.monotonic()
        for state, number in ((State.STOPPED, signal.SIGTERM), (State.KILLED, signal.SIGKILL)):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            if wait_until(lambda: home.server_pid() is None, timeout_s):
                wait_until(lambda: exit_status(pid) is not None, 1.0)
                return Down(state, time.monotonic() - began)
    raise FinalError(
        f"ClickHouse (process {pid}) does not end even after SIGKILL; inspect it with: ps -p {pid}"
    )


@contextmanager
def embedded_server(
    tape_dir: Path,
    *,
    user: str = LOCAL_USER,
    password: str | None = None,
    tcp_port: int | None = None,
) -> Iterator[ClickHouseSettings]:
    """Run a server on a free port for the length of a `with` block; by default with a random password.

    It stops at the end of the block, and also when this process ends, even if killed.
    """
    settings = ClickHouseSettings(
        "local", "127.0.0.1", free_port(), user, password or secrets.token_urlsafe(24)
    )
    read_fd, write_fd = os.pipe()
    try:
        up(settings, tape_dir, tcp_port=tcp_port, stop_with_fd=read_fd)
        yield settings
    finally:
        down(tape_dir, timeout_s=10.0)
        os.close(read_fd)
        os.close(write_fd)


def _use_running(settings: ClickHouseSettings, home: ServerHome) -> Up:
    """Connect to the server that already runs. Raises UsageError if it does not accept `settings`."""
    if home.running_port() == settings.port:
        wait_until(lambda: probe(settings).answer is not Answer.NOTHING, 2.0)
        result = probe(settings)
    else:
        result = Probe(Answer.NOTHING)
    if result.answer is Answer.CLICKHOUSE:
        return Up(State.ALREADY_UP, result.detail, home.data)
    why = (
        f"was started with another user or password than {settings.user}'s"
        if result.answer is Answer.WRONG_PASSWORD
        else f"runs, but does not answer at {settings.url}"
    )
    raise UsageError(f"The embedded ClickHouse of {home.path} {why}: run `make down`, then `make up`.")


def _use_external(settings: ClickHouseSettings, home: ServerHome, note: str) -> Up:
    """Use a server that `up` did not start. Raises UsageError or FinalError if it does not accept `settings`."""
    result = probe(settings)
    match result.answer:
        case Answer.CLICKHOUSE:
            return Up(State.EXTERNAL, result.detail, home.data, note)
        case Answer.WRONG_PASSWORD:
            raise UsageError(
                f"The ClickHouse at {settings.url} was not started by `tape up` and rejects user {settings.user}: "
                "set CLICKHOUSE_LOCAL_USER and CLICKHOUSE_LOCAL_PASSWORD to a login that it accepts, "
                "or CLICKHOUSE_LOCAL_PORT to a free port."
            )
        case Answer.ERROR:
            raise FinalError(
                f"The ClickHouse at {settings.url}, not started by `tape up`, fails: {result.detail}"
            )
        case Answer.NOTHING:
            raise UsageError(
                f"No ClickHouse answers at {settings.url}, and {note}: "
                "start it, or set CLICKHOUSE_LOCAL_HOST to localhost."
            )
    raise FinalError(
        f"Port {settings.port} of {settings.host} is in use by a server that is not ClickHouse: "
        "stop it, or set CLICKHOUSE_LOCAL_PORT to a free port."
    )
