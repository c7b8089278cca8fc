"""Commands of this project that run in the background, from the end of `tape demo` to `tape down`.

TAPE_DIR/background/NAME.lock   locked by the running command; contains its process id
TAPE_DIR/log/NAME.log           its output

The lock, not the process id in the file, decides whether a command runs: it survives neither a reboot nor kill -9.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from extract.errors import OutsideError, UsageError
from extract.paths import ROOT, make_private_dir

_children: list[subprocess.Popen[bytes]] = []
"""Commands that this process started; they outlive it, and Python warns where it forgets one that still runs."""
STOP_S = 40.0
"""Every command ends within 35 s of SIGTERM."""


NAMES = ("serve", "follow", "sandbox")
"""Commands that may run in the background; each needs the ones after it."""


class BackgroundCommand:
    """The command `tape NAME …` of one TAPE_DIR."""

    def __init__(self, tape_dir: Path, name: str) -> None:
        self.name = name
        self.lock = tape_dir / "background" / f"{name}.lock"
        self.log = tape_dir / "log" / f"{name}.log"

    def start(self, *options: str, env: Mapping[str, str]) -> None:
        """Start it with these options. Raises UsageError if it is running already."""
        make_private_dir(self.lock.parent.parent)
        for directory in (self.lock.parent, self.log.parent):
            directory.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(self.lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not try_lock(fd):
                raise UsageError(f"`tape {self.name}` is running in the background: stop it with: make down")
            with self.log.open("wb") as output:
                process = subprocess.Popen(
                    [os.path.join(os.path.dirname(sys.executable), "tape"), self.name, *options],
                    cwd=ROOT,
                    env=dict(env),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=[fd],  # inherits the lock
                    start_new_session=True,  # Ctrl-C at the terminal must not stop it
                )
            _children.append(process)
            os.ftruncate(fd, 0)
            os.write(fd, f"{process.pid}\n".encode())
        finally:
            os.close(fd)

    @property
    def pid(self) -> int | None:
        """Process id of the running command; None if its lock is free."""
        try:
            fd = os.open(self.lock, os.O_RDWR)
        except FileNotFoundError:
            return None
        try:
            text = os.read(fd, 100).strip()
            return int(text) if not try_lock(fd) and text.isdigit() else None
        finally:
            os.close(fd)

    def ready_url(self, timeout_s: float = 60.0) -> str:
        """The URL of its line `ready URL`, which it prints once it answers.

        Raises OutsideError with the last line of its output where it ends before, or prints none in time.
        """
        deadline = time.monotonic() + timeout_s
        while not (ready := re.search(r"^ready (\S+)$", self.output(), re.MULTILINE)):
            if self.pid is None or time.monotonic() > deadline:
                how = "does not answer" if self.pid else "has ended"
                lines = self.output().splitlines() or ["it printed nothing"]
                raise OutsideError(f"`tape {self.name}` {how}: {lines[-1]} (full log: {self.log})")
            time.sleep(0.1)
        return ready[1]

    def output(self) -> str:
        """All that the command has printed."""
        return self.log.read_text(errors="replace")

    def stop(self) -> bool:
        """End it and wait until it has ended; killed after STOP_S. False if it was not running."""
        pid = self.pid
        if pid is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        if not wait_until(lambda: self.pid is None, STOP_S):
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # its worker processes too
            wait_until(lambda: self.pid is None, 5.0)
        return True


def stop_all(tape_dir: Path) -> list[str]:
    """Stop every background command of a TAPE_DIR; return the names of those that were running."""
    return [name for name in NAMES if BackgroundCommand(tape_dir, name).stop()]


def try_lock(fd: int) -> bool:
    """Lock an open file, which its closing unlocks; False if another process has it locked."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Poll `condition` every 20 ms; return False if it is not met in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
