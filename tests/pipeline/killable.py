"""Runs the pipeline, or a push, in children that can be killed at any moment, without paying for the imports each time.

`python -m tests.pipeline.killable [push]`: for each line on standard input, the seconds after which to kill -9 (or
`never`), it runs once as `dlt pipeline run --currency BTC` or `tape push` would and prints the exit code (-9: killed).
"""

from __future__ import annotations

import os
import signal
import sys
import time

from extract.errors import TapeError
from extract.pipeline import RunOptions, run
from extract.push.pushing import push

OPTIONS = RunOptions(currencies=("BTC",))


def child() -> int:
    try:
        if "push" in sys.argv:
            return int(not push().is_equal)
        run(OPTIONS)
    except TapeError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def run_once(kill_after_s: float) -> int:
    """The exit code of one run."""
    pid = os.fork()
    if not pid:
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
        print(run_once(float("inf") if line.strip() == "never" else float(line)), flush=True)
