"""The embedded ClickHouse: the engine of the chdb-core wheel in a process of its own, started and stopped.

    up(clickhouse_settings("local"), tape_dir())
    down(tape_dir())

A ClickHouse that somebody else runs at the same host and port is used as it is and never stopped. What lies
where on disk: `server_home`. Who may do what: `server_config`.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from extract.clickhouse.embedded.config import require_renderable
from extract.clickhouse.embedded.confine import abi_version
from extract.clickhouse.embedded.home import ServerHome, wait_until
from extract.clickhouse.embedded.launch import exit_status, launch
from extract.clickhouse.embedded.probe import Answer, free_port, port_is_free, probe
from extract.clickhouse.settings import LOCAL_DEVELOPMENT_PASSWORD, LOCAL_USER, ClickHouseSettings
from extract.errors import FinalError, UsageError

DEFAULT_TCP_PORT = 9000
MIN_FREE_BYTES = 256 * 1024**2
UNCONFINED = "this system cannot confine the server, so who knows its password can read your files by INFILE"


class State(Enum):
    STARTED = "started"
    ALREADY_UP = "already up"
    EXTERNAL = "not ours"
    STOPPED = "stopped"
    KILLED = "killed"
    NOT_RUNNING = "not running"


@dataclass(frozen=True)
class Up:
    """A ClickHouse that answers as our user; `note` is a half sentence for people."""

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
    """Return when a ClickHouse answers `settings`; start one only where nobody listens.

    `tcp_port`: where the native protocol is served too, if that port is free. `stop_with_fd`: a file
    descriptor at whose end the server stops by itself.

    Raises UsageError (wrong password or configuration), FinalError (port taken, disk full, died while
    starting) or RetriableError (no answer within `timeout_s`).
    """
    home = ServerHome(tape_dir)
    require_renderable(settings)
    if not settings.is_loopback:
        why = f"{settings.host} is not this machine's loopback, where one could be started"
        return _use_foreign(settings, home, why)
    with home.disk_errors(), home.exclusive(timeout_s):
        if home.server_pid() is not None:
            return _use_running(settings, home)
        if probe(settings).answer is not Answer.NOBODY:
            return _use_foreign(settings, home, "it is not ours, so it is used as it is and never stopped")
        home.require_space(min_free_bytes)
        notes = [] if abi_version() else [UNCONFINED]
        if tcp_port is not None and not port_is_free(tcp_port):
            notes.append(f"port {tcp_port} is taken, so the native protocol is off; nothing here needs it")
            tcp_port = None
        version = launch(settings, home, tcp_port=tcp_port, stop_with_fd=stop_with_fd, timeout_s=timeout_s)
        return Up(State.STARTED, version, home.data, "; ".join(notes))


def down(tape_dir: Path, *, timeout_s: float = 30.0) -> Down:
    """Stop the server that `up` started and wait for its end; kill it after `timeout_s`."""
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
        f"ClickHouse (process {pid}) does not end even when killed; look at it with: ps -p {pid}"
    )


@contextmanager
def embedded_server(
    tape_dir: Path,
    *,
    user: str = LOCAL_USER,
    password: str = LOCAL_DEVELOPMENT_PASSWORD,
    tcp_port: int | None = None,
) -> Iterator[ClickHouseSettings]:
    """A server on a free port for the length of a `with` block.

    It ends with the block, and with this process too, however that ends.
    """
    settings = ClickHouseSettings("local", "127.0.0.1", free_port(), user, password)
    read_fd, write_fd = os.pipe()
    try:
        up(settings, tape_dir, tcp_port=tcp_port, stop_with_fd=read_fd)
        yield settings
    finally:
        down(tape_dir, timeout_s=10.0)
        os.close(read_fd)
        os.close(write_fd)


def _use_running(settings: ClickHouseSettings, home: ServerHome) -> Up:
    """Our own server runs already: the same settings reach it, or the sentence says why they do not."""
    wait_until(lambda: probe(settings).answer is not Answer.NOBODY, 2.0)
    found = probe(settings)
    if found.answer is Answer.CLICKHOUSE:
        return Up(State.ALREADY_UP, found.detail, home.data)
    why = (
        f"was started with another user or password than {settings.user}'s"
        if found.answer is Answer.WRONG_PASSWORD
        else f"runs, but does not answer at {settings.url}"
    )
    raise UsageError(f"The embedded ClickHouse of {home.path} {why}: run `make down`, then `make up`.")


def _use_foreign(settings: ClickHouseSettings, home: ServerHome, note: str) -> Up:
    """Somebody else's server: use it if it lets us in."""
    found = probe(settings)
    match found.answer:
        case Answer.CLICKHOUSE:
            return Up(State.EXTERNAL, found.detail, home.data, note)
        case Answer.WRONG_PASSWORD:
            raise UsageError(
                f"The ClickHouse at {settings.url} is not ours and refuses user {settings.user}: "
                "set CLICKHOUSE_LOCAL_USER and CLICKHOUSE_LOCAL_PASSWORD to one that it knows, "
                "or CLICKHOUSE_LOCAL_PORT to a free port."
            )
        case Answer.ERROR:
            raise FinalError(f"The ClickHouse at {settings.url} is not ours and has an error: {found.detail}")
        case Answer.NOBODY:
            raise UsageError(
                f"No ClickHouse answers at {settings.url}, and {note}: "
                "start that one, or set CLICKHOUSE_LOCAL_HOST to localhost."
            )
    raise FinalError(
        f"Port {settings.port} of {settings.host} is taken by something that is no ClickHouse: "
        "stop it, or set CLICKHOUSE_LOCAL_PORT to a free port."
    )
