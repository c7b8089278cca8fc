"""Main program of the embedded ClickHouse: `python -m extract.clickhouse.embedded.process HOME LOG_DIR PORT [OPTION]`.

Options: --http-only disables the native protocol; --until-eof stops the server at the end of its stdin too.

This process supervises the engine, which runs in a forked child: it locks server.lock in HOME (flock), starts the
engine again if it crashes, and prints why. The lock, not the process id in the file, decides whether a server runs:
it survives neither a reboot nor kill -9, and two servers cannot share a data directory.

The listeners belong to clickhouse-local's main function, which returns after its last query. Its first query waits
until the configuration, which contains password hashes, is deleted from the disk. Its last query reads a fifo whose
only writer is the engine's process: SIGTERM closes it, the query ends, and the server shuts down cleanly.
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
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

from extract.clickhouse.embedded.confine import confine

# Paths that Python and the engine read. Of /proc only figures, because the rest exposes environments and files of
# processes. The engine reads task/ID/schedstat for every thread; the environment of this process has no secret, see
# `launch`.
PROC = ("cpuinfo", "diskstats", "loadavg", "meminfo", "pressure", "stat", "sys", "uptime", "vmstat")
PROC_SELF = ("cgroup", "limits", "maps", "mountinfo", "mounts", "stat", "statm", "status", "task")
READABLE = [Path(path) for path in (sys.prefix, sys.base_prefix, "/usr", "/lib", "/lib64", "/sys")]
READABLE += [Path("/proc", name) for name in PROC]
DATA_DIR_LOCKED = "another server is using this data directory"
CONFIGURATION = ("config.xml", "users.xml", "functions/function_file.sql")
MAX_CRASHES, CRASH_WINDOW_S = 5, 60.0
_SET_PARENT_DEATH_SIGNAL = 1


def main(argv: list[str]) -> int:
    """Serve until SIGTERM, or with --until-eof until the end of stdin.

    Returns the engine's exit code, or 1 if the data directory is locked or the engine crashes repeatedly.
    """
    home, log_dir = Path(argv[0]), Path(argv[1])
    os.setsid()  # Ctrl-C at the terminal must not stop the server
    os.closerange(3, 4096)  # otherwise pipes of make or a shell stay open while the server runs
    signal.signal(signal.SIGCHLD, lambda *_: None)  # a signal with the default action may not be waited for
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD})
    if not _lock(home / "server.lock", f"{os.getpid()}\n{argv[2]}\n"):
        print(DATA_DIR_LOCKED, file=sys.stderr)
        return 1
    run = home / "run"
    configuration = {name: (run / name).read_bytes() for name in CONFIGURATION}
    crashes: list[float] = []
    while True:
        status, has_crashed = _run_engine(lambda: _serve(home, log_dir, argv), run)
        if not has_crashed:
            return status
        crashes = [at for at in crashes if time.monotonic() - at < CRASH_WINDOW_S] + [time.monotonic()]
        is_hopeless = len(crashes) >= MAX_CRASHES
        cause = (
            f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with code {status}"
        )
        action = "not restarting, it has crashed too often" if is_hopeless else "restarting it"
        print(f"{datetime.now(UTC):%F %T} Error: ClickHouse {cause}; {action}.", file=sys.stderr, flush=True)
        if is_hopeless:
            return 1
        for path, content in configuration.items():
            (run / path).write_bytes(content)


def _lock(path: Path, content: str) -> bool:
    """Lock the file until this process and the engine end, and write `content` to it; return False if it is locked."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    for attempts_left in range(9, -1, -1):  # a command that only tests the lock holds it for a moment
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if not attempts_left:
                return False
            time.sleep(0.02)
    os.ftruncate(fd, 0)
    os.write(fd, content.encode())
    return True


def _run_engine(serve: Callable[[], None], run: Path) -> tuple[int, bool]:
    """Run `serve` in a child process; return its exit code, and whether it crashed after a successful start."""
    read_fd, write_fd = os.pipe()
    child = os.fork()
    if not child:
        os.close(write_fd)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, int(signal.SIGKILL))
        _start(_at_eof, read_fd, os.getpid(), signal.SIGKILL)  # the supervisor has ended
        serve()
        sys.exit(0)
    os.close(read_fd)
    is_stopping = False
    while True:
        if signal.sigwait({signal.SIGTERM, signal.SIGCHLD}) == signal.SIGTERM:
            is_stopping = True
            os.kill(child, signal.SIGTERM)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            os.close(write_fd)
            return os.waitstatus_to_exitcode(status), not is_stopping and not (
                run / CONFIGURATION[0]
            ).exists()


def _serve(home: Path, log_dir: Path, argv: list[str]) -> None:
    """Confine this process and run the engine in it until SIGTERM."""
    run = home / "run"
    for fifo in ("start.fifo", "stop.fifo"):
        (run / fifo).unlink(missing_ok=True)
        os.mkfifo(run / fifo, 0o600)
    if "--until-eof" in argv:
        _start(_at_eof, 0, os.getppid(), signal.SIGTERM)
    # Landlock restricts the threads that start from here on; this one still deletes files.
    _start(_control, run)
    confine(
        writable=[home / "data", home / "tmp", Path(os.devnull)],
        writable_unreadable=[log_dir],
        readable=[*READABLE, *(Path("/proc/self", name) for name in PROC_SELF), run],
    )
    engine = _engine()
    os.chdir(run)  # config.xml is read from the working directory
    read = "INSERT INTO FUNCTION null('nothing String') FROM INFILE '{}.fifo' FORMAT TabSeparated; "
    listeners = ("HTTP",) if "--http-only" in argv else ("HTTP", "TCP")
    listen = "".join(f"SYSTEM START LISTEN {listener}; " for listener in listeners)
    # "TabSeparated" becomes the server's default format; clickhouse-connect depends on it.
    engine.query(read.format("start") + listen + read.format("stop"), "TabSeparated", path=str(home / "data"))


def _control(run: Path) -> None:
    """Delete the configuration once the engine has read it, let the engine listen, and stop it at SIGTERM."""
    start_fd = os.open(run / "start.fifo", os.O_WRONLY)  # blocks until the engine opens its end
    for name in CONFIGURATION:
        (run / name).unlink()
    os.close(start_fd)
    stop_fd = os.open(run / "stop.fifo", os.O_WRONLY)
    for path in run.rglob("*"):
        if not path.is_dir():
            path.unlink()
    signal.sigwait({signal.SIGTERM})
    os.close(stop_fd)


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
    spec = importlib.machinery.ModuleSpec("_chdb", loader, origin=str(library))
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def _at_eof(fd: int, pid: int, number: signal.Signals) -> None:
    """Send a signal when the process that holds the other end of `fd` ends, however it ends."""
    while os.read(fd, 1024):
        pass
    os.kill(pid, number)


def _start(function: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=function, args=arguments, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
