"""`dbt run` in a process that a test can kill with SIGKILL, without importing and parsing each time.

`python -m tests.support.killable_dbt SCRATCH OPTIONS` prints `ready`. For each line on standard input it forks a child that
runs the project once, and prints the child's pid, then its exit code when it has ended (-9: killed).
"""

from __future__ import annotations

import os
import sys

from dbt.cli.main import dbtRunner

from harness.dbt_project import run_words


def main(scratch: str, *options: str) -> None:
    manifest = dbtRunner().invoke(run_words("parse", scratch)).result
    print("ready", flush=True)
    for _ in sys.stdin:
        pid = os.fork()
        if not pid:
            result = dbtRunner(manifest=manifest).invoke(run_words("run", scratch, *options))
            os._exit(0 if result.success else 1)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
