"""Directories, locks and disk checks of one embedded server.

TAPE_DIR/clickhouse/    data/ tmp/   all that the engine can write
                        run/         configuration of a starting server, deleted as soon as the engine has read it
                        up.lock      locked during a start or a stop
                        server.lock  locked by the running server; a line each with its process id and its port
TAPE_DIR/log/           clickhouse.log, clickhouse.err.log (rotated), clickhouse.out.log (start-up messages)
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from extract.background import try_lock, wait_until
from extract.errors import FinalError, RetriableError, UsageError
from extract.paths import make_private_dir


class ServerHome:
    """Paths of the embedded server of one TAPE_DIR."""

    def __init__(self, tape_dir: Path) -> None:
        self.path = tape_dir.resolve() / "clickhouse"
        self.data = self.path / "data"
        self.tmp = self.path / "tmp"
        self.run = self.path / "run"
        self.log_dir = tape_dir.resolve() / "log"
        self.output = self.log_dir / "clickhouse.out.log"

    def make(self) -> None:
        """Create the directories and delete temporary files of the previous server.

        Also delete the files of its system tables: the engine never reads them again.
        """
        for leftover in (self.tmp, self.run, self.data / "data" / "system"):
            shutil.rmtree(leftover, ignore_errors=True)
        for name in ("config.xml", "users.xml", "stop.fifo"):  # of earlier versions
            (self.path / name).unlink(missing_ok=True)
        make_private_dir(self.path.parent)
        for directory in (self.path, self.log_dir, self.data, self.tmp, self.run):
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(0o700)
        if self.output.exists():
            self.output.replace(self.output.with_suffix(".previous.log"))

    @contextmanager
    def exclusive(self, timeout_s: float) -> Iterator[None]:
        """Allow one start or stop at a time; a second one waits. Raises RetriableError after `timeout_s`."""
        make_private_dir(self.path.parent)
        self.path.mkdir(exist_ok=True)
        fd = os.open(self.path / "up.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not wait_until(lambda: try_lock(fd), timeout_s):
                raise RetriableError(
                    f"Another start or stop of {self.path} is still running after {timeout_s:g} s."
                )
            yield
        finally:
            os.close(fd)

    def server_pid(self) -> int | None:
        """Return the process id of the running server, None if its lock is free. Call it within `exclusive`.

        Raises FinalError if the lock file does not contain it.
        """
        try:
            fd = os.open(self.path / "server.lock", os.O_RDWR)
        except FileNotFoundError:
            return None
        try:
            if try_lock(fd):
                return None
            if owner := _pid_and_port(os.read(fd, 100)):
                return owner[0]
        finally:
            os.close(fd)
        path = self.path / "server.lock"
        raise FinalError(f"{path} is locked, but does not name a process; find the server with: lsof {path}")

    def running_port(self) -> int | None:
        """Return the HTTP port of the running server, None if none runs. Callable at any time."""
        try:
            fd = os.open(self.path / "server.lock", os.O_RDWR)
        except OSError:
            return None
        try:
            pid, port = _pid_and_port(os.read(fd, 100)) or (0, 0)
            # A starting server must find its lock free, so it is only tried while its last owner is alive.
            return port if pid and _is_alive(pid) and not try_lock(fd) else None
        finally:
            os.close(fd)

    @contextmanager
    def disk_errors(self) -> Iterator[None]:
        """Convert OSError to FinalError (disk full) or UsageError (unusable directory)."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise FinalError(self.disk_full("no space left")) from error
            raise UsageError(
                f"{error.filename or self.path} cannot be used ({error.strerror}): "
                "set TAPE_DIR to a writable directory."
            ) from error

    def require_space(self, min_free_bytes: int) -> None:
        free_bytes = shutil.disk_usage(self.path).free
        if free_bytes < min_free_bytes:
            raise FinalError(self.disk_full(f"{free_bytes // 1024**2} MiB left"))

    def disk_full(self, detail: str) -> str:
        return (
            f"The disk of {self.path} is full ({detail}): free some space, or set TAPE_DIR to another disk."
        )


def _pid_and_port(content: bytes) -> tuple[int, int] | None:
    """Parse the content of server.lock; None if it has another form."""
    words = content.split()
    return (int(words[0]), int(words[1])) if len(words) == 2 and b"".join(words).isdigit() else None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
