"""Main program of the embedded ClickHouse: `python -m extract.clickhouse.embedded.process HOME LOG_DIR [OPTION]`.

Options: --http-only disables the native protocol; --until-eof stops the server at the end of its stdin too.
The process locks server.lock in HOME (flock) while it runs. The lock, not the process id in the file, decides
whether a server runs: it survives neither a reboot nor kill -9, and two servers cannot share a data directory.

The listeners belong to clickhouse-local's main function, which returns after its last query. That query reads
a fifo without a writer; SIGTERM closes the fifo, the query ends, and the server shuts down cleanly.
"""

from __future__ import annotations

import ctypes
import fcntl
import importlib.machinery
import importlib.util
import os
import signal
import sys
import threading
from pathlib import Path
from types import ModuleType

from extract.clickhouse.embedded.confine import confine

# Trees that Python and the engine read. Not all of /proc, because the environments of other processes may
# hold passwords.
PROC = ("self", "cpuinfo", "diskstats", "loadavg", "meminfo", "pressure", "stat", "sys", "uptime", "vmstat")
READABLE = [Path(path) for path in (sys.prefix, sys.base_prefix, "/usr", "/lib", "/lib64", "/sys")]
READABLE += [Path("/proc", name) for name in PROC]
DATA_DIR_LOCKED = "another server is using this data directory"


def main(argv: list[str]) -> int:
    """Serve until SIGTERM, or with --until-eof until the end of stdin. Returns 1 if the data directory is locked."""
    home, log_dir = Path(argv[0]), Path(argv[1])
    os.setsid()  # Ctrl-C at the terminal must not stop the server
    os.closerange(3, 4096)  # otherwise pipes of make or a shell stay open while the server runs
    signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGTERM}
    )  # inherited by all threads; _stop_at_sigterm waits for it
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
    """Lock the file until this process ends and write the process id to it; return False if it is locked."""
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
    """Load the extension module of chdb. Importing the package would open a session, which disables the log."""
    package = importlib.util.find_spec("chdb")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("chdb", name="chdb")
    library = Path(package.origin).with_name("_chdb.abi3.so")
    os.chdir(library.parent)  # the library searches for its parts in the working directory
    if sys.platform == "linux":  # as the package does, to keep its allocator apart from other libraries'
        ctypes.CDLL(str(library), mode=sys.getdlopenflags() | os.RTLD_DEEPBIND)
    loader = importlib.machinery.ExtensionFileLoader("_chdb", str(library))
    module = importlib.util.module_from_spec(
        importlib.machinery.ModuleSpec("_chdb", loader, origin=str(library))
    )
    loader.exec_module(module)
    return module


def _stop_at_sigterm(fifo: Path) -> None:
    signal.sigwait({signal.SIGTERM})
    os.close(os.open(fifo, os.O_WRONLY))


def _sigterm_at_eof() -> None:
    """Stop the server when the process at the other end of stdin ends, however it ends."""
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
