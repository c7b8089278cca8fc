"""Start the server's process and wait until it answers, or say why it does not."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from contextlib import suppress

from extract.clickhouse import server_config, server_process
from extract.clickhouse.server_home import ServerHome, wait_until
from extract.clickhouse.server_probe import Answer, probe
from extract.clickhouse.settings import ClickHouseSettings
from extract.errors import FinalError, RetriableError

# What the process needs of our environment; passwords and cloud credentials are not among it.
PASSED_ON = re.compile(r"PATH|HOME|LANG|LC_\w+|LD_\w+|DYLD_\w+|PYTHON\w+|VIRTUAL_ENV")


def launch(
    settings: ClickHouseSettings,
    home: ServerHome,
    *,
    tcp_port: int | None,
    stop_with_fd: int | None,
    timeout_s: float,
) -> str:
    """The version of the server that now answers `settings`. Leaves no process behind when it raises."""
    home.make()
    server_config.write(home, settings, tcp_port=tcp_port)
    pid = _spawn(home, http_only=tcp_port is None, stop_with_fd=stop_with_fd)
    try:
        return _wait_for_answer(settings, home, pid, timeout_s)
    except BaseException:  # Ctrl-C too
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: has_ended(pid), 5.0)
        raise


def has_ended(pid: int) -> bool:
    """True once `pid` is no running child of ours; its exit status is collected."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def _spawn(home: ServerHome, *, http_only: bool, stop_with_fd: int | None) -> int:
    """Process id of the new process, in which nothing of ours is open but its log and `stop_with_fd`."""
    command = [sys.executable, "-P", server_process.__file__, str(home.path)]
    if http_only:
        command.append("--http-only")
    if stop_with_fd is not None:
        command.append("--until-eof")
    environment = {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)}
    log_flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
        if stop_with_fd is None
        else (os.POSIX_SPAWN_DUP2, stop_with_fd, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(home.output), log_flags, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawn(sys.executable, command, environment, file_actions=files)


def _wait_for_answer(settings: ClickHouseSettings, home: ServerHome, pid: int, timeout_s: float) -> str:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if has_ended(pid):
            raise FinalError(_why_it_ended(home))
        found = probe(settings)
        if found.answer is Answer.CLICKHOUSE:
            return found.detail
        time.sleep(0.05)
    raise RetriableError(
        f"ClickHouse does not answer at {settings.url} after {timeout_s:g} s; see {home.log_dir}."
    )


def _why_it_ended(home: ServerHome) -> str:
    lines = [line.strip() for line in home.output.read_text(errors="replace").splitlines() if line.strip()]
    told = (
        [line for line in lines if "Exception" in line or "Error" in line] or lines or ["it left no message"]
    )
    reason = told[-1][:400]
    if "No space left" in reason or "NOT_ENOUGH_SPACE" in reason:
        return home.disk_full("the server cannot write")
    return f"ClickHouse ended while starting: {reason} (the whole log: {home.output})"
