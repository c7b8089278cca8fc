"""The embedded ClickHouse's own process: `python -m extract.clickhouse.embedded.process HOME LOG_DIR [OPTION]`.

--http-only: no native protocol; --until-eof: ends with its stdin too. HOME has config.xml, users.xml, data/,
tmp/ and server.lock, which this process holds (flock) for as long as it lives: the lock, not a pid, says
whether a server runs. So neither a recycled pid nor a reboot nor a kill -9 misleads, and no two servers share
one data directory.

The listeners belong to clickhouse-local's main, which ends with its last query. That one reads a fifo to
which nobody writes; SIGTERM closes it, the query ends, and with it the server, in order.
"""

from __future__ import annotations

import ctypes
import fcntl
import importlib.util
import os
import signal
import sys
import threading
from pathlib import Path
from types import ModuleType

from extract.clickhouse.embedded.confine import confine

# What Python and the engine read: themselves, and the kernel's view of the machine. Of /proc no more than
# that: the environments of the user's other processes hold passwords.
PROC = ("self", "cpuinfo", "diskstats", "loadavg", "meminfo", "pressure", "stat", "sys", "uptime", "vmstat")
READABLE = [Path(path) for path in (sys.prefix, sys.base_prefix, "/usr", "/lib", "/lib64", "/sys")]
READABLE += [Path("/proc", name) for name in PROC]
DATA_DIR_LOCKED = "another server uses this data directory"


def main(argv: list[str]) -> int:
    """Serve until SIGTERM (with --until-eof: or the end of stdin); return at once if it cannot start."""
    home, log_dir = Path(argv[0]), Path(argv[1])
    os.setsid()  # a Ctrl-C at the terminal that started it is not meant for the server
    os.closerange(3, 4096)  # pipes of make or of a shell would stay open as long as the server lives
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # every thread from here on leaves it to _stop
    if not _hold_lock(home / "server.lock"):
        print(DATA_DIR_LOCKED, file=sys.stderr)
        return 1
    confine(writable=[home, log_dir, Path(os.devnull)], readable=READABLE)
    fifo = home / "stop.fifo"
    fifo.unlink(missing_ok=True)
    os.mkfifo(fifo, 0o600)
    threading.Thread(target=_stop_at_sigterm, args=(fifo,), daemon=True).start()
    if "--until-eof" in argv:
        threading.Thread(target=_sigterm_at_eof, daemon=True).start()
    _serve(home, fifo, listeners=("HTTP",) if "--http-only" in argv else ("HTTP", "TCP"))
    return 0


def _hold_lock(path: Path) -> bool:
    """Take the lock for the life of this process and write our pid into it; False if it is taken."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    os.ftruncate(fd, 0)
    os.write(fd, f"{os.getpid()}\n".encode())
    return True


def _serve(home: Path, fifo: Path, *, listeners: tuple[str, ...]) -> None:
    os.environ["TMPDIR"] = str(home / "tmp")
    engine = _engine()
    os.chdir(home)  # config.xml is read from here
    start = "".join(f"SYSTEM START LISTEN {listener}; " for listener in listeners)
    quoted = str(fifo).replace("\\", "\\\\").replace("'", "\\'")
    hold = f"INSERT INTO FUNCTION null('nothing String') FROM INFILE '{quoted}' FORMAT TabSeparated"
    # "TabSeparated" becomes the server's default format; clickhouse-connect counts on it.
    engine.query(start + hold, "TabSeparated", path=str(home / "data"))


def _engine() -> ModuleType:
    """The extension of chdb alone: the package opens a session of its own, after which no log is written."""
    package = importlib.util.find_spec("chdb")
    library = Path(package.origin).with_name("_chdb.abi3.so")
    os.chdir(library.parent)  # it looks for its own parts here
    if sys.platform == "linux":  # as the package does: its allocator must not mix with another library's
        ctypes.CDLL(str(library), mode=sys.getdlopenflags() | os.RTLD_DEEPBIND)
    spec = importlib.util.spec_from_file_location("_chdb", library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _stop_at_sigterm(fifo: Path) -> None:
    signal.sigwait({signal.SIGTERM})
    os.close(os.open(fifo, os.O_WRONLY))


def _sigterm_at_eof() -> None:
    """The other end of stdin is held by a process that must not leave this one behind, however it ends."""
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
