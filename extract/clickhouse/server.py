"""The embedded ClickHouse: the engine of the chdb-core wheel in a process of its own, started and stopped here.

    outcome = up(clickhouse_settings("local"), tape_dir())
    outcome = down(tape_dir())

A ClickHouse that somebody else runs at the same host and port is used as it is and never stopped. On disk, all in
TAPE_DIR: `clickhouse/` (config.xml, users.xml, server.lock, data/, tmp/) and `log/clickhouse*.log`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from extract.clickhouse import server_config, server_process
from extract.clickhouse.server_probe import Answer, port_is_free, probe
from extract.clickhouse.settings import ClickHouseSettings
from extract.errors import FinalError, RetriableError, UsageError

DEFAULT_TCP_PORT = 9000
MIN_FREE_BYTES = 256 * 1024**2
# What the child needs of our environment; passwords and cloud credentials are not among it.
CHILD_ENVIRONMENT = re.compile(r"PATH|HOME|LANG|LC_\w+|TZ|LD_\w+|DYLD_\w+|PYTHON\w+|VIRTUAL_ENV")


class State(Enum):
    STARTED = "started"
    ALREADY_UP = "already up"
    NOT_OURS = "not ours"
    STOPPED = "stopped"
    KILLED = "killed"
    NOT_RUNNING = "not running"


@dataclass(frozen=True)
class Up:
    """A ClickHouse that answers as our user. `tcp_port` is None where only HTTP is served or we cannot know."""

    state: State
    version: str
    data_dir: Path
    tcp_port: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Down:
    state: State
    waited_s: float = 0.0


def up(
    settings: ClickHouseSettings,
    tape_dir: Path,
    *,
    tcp_port: int | None = DEFAULT_TCP_PORT,
    stop_with_us: int | None = None,
    timeout_s: float = 60.0,
    min_free_bytes: int = MIN_FREE_BYTES,
) -> Up:
    """Return when ClickHouse answers `settings`, starting one only where nobody listens.

    `tcp_port` None: HTTP only. `stop_with_us`: a file descriptor to read from; at its end the server stops.
    Raises UsageError (wrong password or configuration), FinalError (port taken, disk full, died), RetriableError
    (no answer within `timeout_s`).
    """
    home = _Home(tape_dir)
    _require_renderable(settings)
    if not settings.is_loopback:
        return _use_foreign(
            settings, home, f"{settings.host} is not this machine's loopback, so none is started here"
        )
    with _disk_errors(home), home.exclusive(timeout_s):
        if home.server_pid() is not None:
            return _use_running(settings, home, timeout_s)
        if probe(settings).answer is not Answer.NOBODY:
            return _use_foreign(settings, home, "it is not ours: it is used as it is and never stopped")
        _require_space(home, min_free_bytes)
        return _start(settings, home, tcp_port, stop_with_us, timeout_s)


def down(tape_dir: Path, *, timeout_s: float = 30.0) -> Down:
    """Stop the server that `up` started and wait for its end; kill it after `timeout_s`."""
    home = _Home(tape_dir)
    if not home.path.is_dir():
        return Down(State.NOT_RUNNING)
    with home.exclusive(timeout_s):
        pid = home.server_pid()
        if pid is None:
            return Down(State.NOT_RUNNING)
        began = time.monotonic()
        for state, number in ((State.STOPPED, signal.SIGTERM), (State.KILLED, signal.SIGKILL)):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            if _wait_until(lambda: home.server_pid() is None, timeout_s):
                _reap(pid)
                return Down(state, time.monotonic() - began)
    raise FinalError(f"ClickHouse (process {pid}) did not end even when killed; look at it with: ps -p {pid}")


class _Home:
    """Where one embedded server lives on disk, and the two locks: one for who starts or stops, one held by the server."""

    def __init__(self, tape_dir: Path) -> None:
        self.path = tape_dir.resolve() / "clickhouse"
        self.data = self.path / "data"
        self.log_dir = tape_dir.resolve() / "log"
        self.output = self.log_dir / "clickhouse.out.log"

    def make(self) -> None:
        for directory in (self.path, self.data, self.path / "tmp", self.log_dir):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    @contextmanager
    def exclusive(self, timeout_s: float) -> Iterator[None]:
        """One `up` or `down` at a time; the second waits for the first."""
        self.make()
        fd = os.open(self.path / "up.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not _wait_until(lambda: _try_lock(fd), timeout_s):
                raise RetriableError(
                    f"Another start or stop of {self.path} has not ended after {timeout_s:g} s."
                )
            yield
        finally:
            os.close(fd)

    def server_pid(self) -> int | None:
        """Process id of the living server; None if none lives, whatever an old file says."""
        try:
            fd = os.open(self.path / "server.lock", os.O_RDWR)
        except FileNotFoundError:
            return None
        try:
            return None if _try_lock(fd) else json.loads(os.read(fd, 4096))["pid"]
        finally:
            os.close(fd)


def _start(
    settings: ClickHouseSettings,
    home: _Home,
    tcp_port: int | None,
    stop_with_us: int | None,
    timeout_s: float,
) -> Up:
    address = "::1" if settings.host == "::1" else "127.0.0.1"
    note = ""
    if tcp_port is not None and not port_is_free(address, tcp_port):
        note = f"port {tcp_port} is taken, so the native protocol is off (nothing here needs it)"
        tcp_port = None
    config = server_config.config_xml(
        listen_address=address, http_port=settings.port, tcp_port=tcp_port, log_dir=home.log_dir
    )
    server_config.write_private(home.path / "config.xml", config)
    users = server_config.users_xml(user=settings.user, password=settings.password)
    server_config.write_private(home.path / "users.xml", users)
    shutil.rmtree(home.path / "tmp", ignore_errors=True)  # what a killed server left
    home.make()
    if home.output.exists():
        home.output.replace(home.output.with_suffix(".previous.log"))
    pid = _spawn(home, http_only=tcp_port is None, stop_with_us=stop_with_us)
    try:
        version = _wait_for_answer(settings, home, pid, timeout_s)
    except BaseException:  # Ctrl-C too: nothing half-started stays behind
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _wait_until(lambda: _reap(pid), 5.0)
        raise
    return Up(State.STARTED, version, home.data, tcp_port, note)


def _spawn(home: _Home, *, http_only: bool, stop_with_us: int | None) -> int:
    """Start the server's process, with nothing of ours open in it but its log."""
    command = [sys.executable, "-P", server_process.__file__, str(home.path)]
    command += ["--http-only"] * http_only + ["--until-eof"] * (stop_with_us is not None)
    environment = {name: value for name, value in os.environ.items() if CHILD_ENVIRONMENT.fullmatch(name)}
    with open(os.open(home.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb") as output:
        with open(os.devnull, "rb") as nothing:
            stdin = nothing.fileno() if stop_with_us is None else stop_with_us
            actions = [
                (os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate((stdin, output.fileno()))
            ]
            actions.append((os.POSIX_SPAWN_DUP2, output.fileno(), 2))
            return os.posix_spawn(sys.executable, command, environment, file_actions=actions)


def _wait_for_answer(settings: ClickHouseSettings, home: _Home, pid: int, timeout_s: float) -> str:
    """The version, once the server answers as our user."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if _reap(pid):
            raise FinalError(_why_it_died(home))
        found = probe(settings)
        if found.answer is Answer.CLICKHOUSE:
            return found.detail
        time.sleep(0.05)
    raise RetriableError(
        f"ClickHouse did not answer at {settings.url} within {timeout_s:g} s; its log: {home.log_dir}"
    )


def _use_running(settings: ClickHouseSettings, home: _Home, timeout_s: float) -> Up:
    """Our own server runs already: the same settings reach it, or the sentence says why they do not."""
    _wait_until(lambda: probe(settings).answer is not Answer.NOBODY, min(timeout_s, 5.0))
    found = probe(settings)
    if found.answer is Answer.CLICKHOUSE:
        return Up(State.ALREADY_UP, found.detail, home.data)
    if found.answer is Answer.WRONG_PASSWORD:
        raise UsageError(
            "The embedded ClickHouse was started with another user or password: run `make down`, then `make up`."
        )
    raise UsageError(
        f"The embedded ClickHouse of {home.path} is up, but not at {settings.url}: run `make down`, then `make up`."
    )


def _use_foreign(settings: ClickHouseSettings, home: _Home, note: str) -> Up:
    found = probe(settings)
    if found.answer is Answer.CLICKHOUSE:
        return Up(State.NOT_OURS, found.detail, home.data, note=note)
    if found.answer is Answer.WRONG_PASSWORD:
        raise UsageError(
            f"The ClickHouse at {settings.url} is not ours and refuses user {settings.user}: set CLICKHOUSE_LOCAL_USER "
            "and CLICKHOUSE_LOCAL_PASSWORD to one that it knows, or CLICKHOUSE_LOCAL_PORT to a free port."
        )
    if found.answer is Answer.TROUBLED:
        raise FinalError(
            f"The ClickHouse at {settings.url} is not ours and answers with an error: {found.detail}"
        )
    if found.answer is Answer.NOBODY:
        raise UsageError(
            f"No ClickHouse answers at {settings.url}, and {note}: "
            "set CLICKHOUSE_LOCAL_HOST=localhost to have one started."
        )
    raise FinalError(
        f"Port {settings.port} of {settings.host} is taken by something that is no ClickHouse: "
        "stop it, or set CLICKHOUSE_LOCAL_PORT to a free port."
    )


def _require_renderable(settings: ClickHouseSettings) -> None:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", settings.user):
        raise UsageError(f"CLICKHOUSE_LOCAL_USER is {settings.user!r}; use letters, digits and underscores.")


def _require_space(home: _Home, min_free_bytes: int) -> None:
    free_bytes = shutil.disk_usage(home.path).free
    if free_bytes < min_free_bytes:
        raise FinalError(_disk_full(home, f"{free_bytes // 1024**2} MiB are left"))


def _disk_full(home: _Home, detail: str) -> str:
    return f"The disk of {home.path} is full ({detail}): make room there, or set TAPE_DIR to another disk."


@contextmanager
def _disk_errors(home: _Home) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FinalError(_disk_full(home, os.strerror(error.errno))) from error
        if isinstance(error, PermissionError | NotADirectoryError | FileExistsError):
            raise UsageError(
                f"{error.filename} cannot be used ({error.strerror}): set TAPE_DIR to a directory of yours."
            ) from error
        raise


def _why_it_died(home: _Home) -> str:
    lines = [line.strip() for line in home.output.read_text(errors="replace").splitlines() if line.strip()]
    told = (
        [line for line in lines if "Exception" in line or "Error" in line] or lines or ["it left no message"]
    )
    reason = told[-1][:400]
    if "No space left" in reason or "NOT_ENOUGH_SPACE" in reason:
        return _disk_full(home, "the server could not write")
    return f"ClickHouse ended while starting: {reason} (log: {home.output})"


def _reap(pid: int) -> bool:
    """True once `pid`, a child of ours, has ended; False while it runs or if it is no child of ours."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return False


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_until(condition, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
