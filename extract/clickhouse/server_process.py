"""The embedded ClickHouse's own process: `python -P server_process.py HOME [--http-only] [--until-eof]`.

Imports nothing of this project, so it starts from any directory. HOME holds config.xml, users.xml, data/, tmp/ and
server.lock, which this process holds (flock) for as long as it lives: the lock, not a pid, says whether a server runs,
so neither a recycled pid nor a reboot nor a kill -9 can mislead, and no two servers ever share one data directory.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import threading
from pathlib import Path

# The listeners belong to clickhouse-local's main, which ends with its queries: one that sleeps for 31 years follows.
SLEEP = (
    "SELECT sleepEachRow(1) FROM numbers(1000000000) "
    "SETTINGS max_block_size = 1, function_sleep_max_microseconds_per_block = 100000000 FORMAT Null"
)


def main(argv: list[str]) -> int:
    home = Path(argv[0])
    os.setsid()  # a Ctrl-C at the terminal that started it is not meant for the server
    os.closerange(3, 4096)  # pipes of make or of a shell would stay open as long as the server lives
    lock_fd = os.open(home / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"another server holds {home / 'server.lock'}", file=sys.stderr)
        return 1
    os.ftruncate(lock_fd, 0)
    os.write(lock_fd, json.dumps({"pid": os.getpid()}).encode())
    if "--until-eof" in argv:
        threading.Thread(target=_stop_at_end_of_stdin, daemon=True).start()
    run(home, listeners=("HTTP",) if "--http-only" in argv else ("HTTP", "TCP"))
    return 0


def run(home: Path, *, listeners: tuple[str, ...]) -> None:
    """Serve until a signal or SYSTEM SHUTDOWN ends it; returns at once when the engine cannot start."""
    os.environ["TMPDIR"] = str(home / "tmp")
    os.chdir(home / "tmp")  # importing chdb opens a session of its own, which must not read our config.xml
    from chdb import _chdb

    os.chdir(home)
    start = "".join(f"SYSTEM START LISTEN {listener}; " for listener in listeners)
    # "TabSeparated" becomes the server's default format; clickhouse-connect counts on it.
    _chdb.query(start + SLEEP, "TabSeparated", path=str(home / "data"))


def _stop_at_end_of_stdin() -> None:
    """The other end of stdin is held by a process that must not leave this one behind, however it ends."""
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
