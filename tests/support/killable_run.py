"""Run the pipeline, or a push, in forked children that can be killed at any moment, importing everything once.

`python -m tests.support.killable_run [push]`: for each line on standard input it runs once like `dlt pipeline run --currency
BTC` or `tape push` would and prints the exit code (-9: killed). The line says when to kill -9: `after S` seconds,
`before F`: before the first change to the pipeline's working directory whose kind file F does not list, or `never`.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path

from extract.errors import TapeError
from extract.pipeline.run import run
from extract.push.push import push
from extract.source.options import RunOptions

OPTIONS = RunOptions(currencies=("BTC",))
CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate")
"""Audit events of file changes; `open` only for writing."""
IDS = re.compile(r"[0-9a-f]{6,}|\d+")


def child() -> int:
    try:
        if "push" in sys.argv:
            return int(not push().is_equal)
        run(OPTIONS)
    except TapeError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def kill_before_new_change(killed_before: Path) -> None:
    """Kill this process before the first change below `dlt/` whose kind the file does not list, and add the kind."""
    below = os.path.join(os.path.abspath(os.environ["TAPE_DIR"]), "dlt")
    known = set(killed_before.read_text().splitlines())

    def on_event(event: str, args: tuple[object, ...]) -> None:
        if event not in CHANGES or (event == "open" and not opened_to_write(args)):
            return
        path = changed_path(event, args)
        if path.startswith(below):
            kind = f"{event} {IDS.sub('#', path.removeprefix(below))}"
            if kind not in known:
                with killed_before.open("a") as file:
                    file.write(kind + "\n")
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(on_event)


def changed_path(event: str, args: tuple[object, ...]) -> str:
    """The path of an audited event; rmtree names the directory by its descriptor."""
    if event in ("os.remove", "os.rmdir") and args[1] != -1:
        return os.path.join(os.readlink(f"/proc/self/fd/{args[1]}"), str(args[0]))
    return str(args[0])


def opened_to_write(args: tuple[object, ...]) -> bool:
    """Whether an audited `open` of (path, mode, flags) may change the file."""
    flags = args[2]
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))


def run_once(kill_after_s: float = float("inf"), killed_before: Path | None = None) -> int:
    """The exit code of one run."""
    pid = os.fork()
    if not pid:
        if killed_before:
            kill_before_new_change(killed_before)
        os._exit(child())
    deadline = time.monotonic() + kill_after_s
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            os.kill(pid, signal.SIGKILL)
            deadline = float("inf")
        time.sleep(0.005)


if __name__ == "__main__":
    print(os.getpid(), flush=True)
    for line in sys.stdin:
        match line.split():
            case ["after", seconds]:
                code = run_once(kill_after_s=float(seconds))
            case ["before", path]:
                code = run_once(killed_before=Path(path))
            case _:
                code = run_once()
        print(code, flush=True)
