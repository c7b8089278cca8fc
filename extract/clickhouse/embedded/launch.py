"""Start the server's process and wait until it answers; report why it does not."""

from __future__ import annotations

import os
import re
import signal
import sys
import textwrap
import time
from contextlib import suppress

from extract.background import wait_until
from extract.clickhouse.embedded import config, process
from extract.clickhouse.embedded.home import ServerHome
from extract.clickhouse.embedded.probe import Answer, probe
from extract.clickhouse.embedded.process import DATA_DIR_LOCKED
from extract.clickhouse.settings import ClickHouseSettings
from extract.errors import FinalError, RetriableError
from extract.paths import ROOT

# Environment variables that the server inherits; passwords and cloud credentials are excluded.
INHERITED = re.compile(r"PATH|HOME|LANG|LC_\w+|LD_\w+|DYLD_\w+|PYTHON\w+|VIRTUAL_ENV")


def launch(
    settings: ClickHouseSettings,
    home: ServerHome,
    *,
    tcp_port: int | None,
    stop_with_fd: int | None,
    timeout_s: float,
) -> str:
    """Start a server and return its version once it accepts `settings`. Leaves no process behind if it raises."""
    home.make()
    config.write(home, settings, tcp_port=tcp_port)
    pid = _spawn(home, settings.port, http_only=tcp_port is None, stop_with_fd=stop_with_fd)
    try:
        return _wait_for_answer(settings, home, pid, timeout_s)
    except BaseException:  # Ctrl-C too
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: exit_status(pid) is not None, 5.0)
        raise


def exit_status(pid: int) -> int | None:
    """Return the exit code of a child process (negative for a signal), None while it runs, 0 if it is not a child."""
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return 0
    return os.waitstatus_to_exitcode(status) if ended else None


def _spawn(home: ServerHome, port: int, *, http_only: bool, stop_with_fd: int | None) -> int:
    """Start the process and return its id. It inherits no file except its log and `stop_with_fd`."""
    command = [sys.executable, "-P", "-m", process.__name__, str(home.path), str(home.log_dir), str(port)]
    if http_only:
        command.append("--http-only")
    if stop_with_fd is not None:
        command.append("--until-eof")
    environment = {name: value for name, value in os.environ.items() if INHERITED.fullmatch(name)}
    environment["PYTHONPATH"] = str(ROOT)
    # The engine reads the process's auxiliary vector where the original environment ends. A variable set later moves
    # the environment, and the engine may then crash while it loads, so the process gets all variables here and
    # Python is kept from setting LC_CTYPE.
    environment |= {"TMPDIR": str(home.path / "tmp"), "PYTHONCOERCECLOCALE": "0"}
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
        status = exit_status(pid)
        if status is not None:
            raise FinalError(_exit_reason(home, status))
        result = probe(settings)
        if result.answer is Answer.CLICKHOUSE:
            return result.detail
        time.sleep(0.05)
    raise RetriableError(
        f"ClickHouse does not answer at {settings.url} after {timeout_s:g} s; see {home.log_dir}."
    )


def _exit_reason(home: ServerHome, status: int) -> str:
    """Return the last error line of its output; the engine exits with code 0 after most errors."""
    lines = home.output.read_text(errors="replace").splitlines()
    errors = [
        line.strip() for line in lines if "Exception" in line or "Error" in line or DATA_DIR_LOCKED in line
    ]
    reason = errors[-1] if errors else f"no error message, exit code {status}"
    if "No space left" in reason or "NOT_ENOUGH_SPACE" in reason:
        return home.disk_full("the server cannot write")
    return f"ClickHouse stopped while starting: {textwrap.shorten(reason, 300)} (full log: {home.output})"
