"""AWS Batch entry point: an interruptible backfill (`python -m extract.aws.batch_backfill --since 2016-01-01`)."""

from __future__ import annotations

import os
import signal
import time
import uuid

import click

from extract.aws.workspace import run_in_workspace
from extract.cli.main import run_and_exit
from extract.cli.options import scope_options
from extract.clickhouse.lease import AnotherRunError
from extract.pipeline.stop import StopSignal, stop_on_sigterm
from extract.source.options import RunOptions

WAIT_FOR_OTHER_RUN_S = 20 * 60.0
"""An increment takes at most a quarter of an hour."""
RETRY_EVERY_S = 5.0
INTERRUPTED = 128 + signal.SIGTERM
"""Exit code of an interrupted job. Batch counts 0 as done, and does not retry the job."""


@click.command()
@click.option("--since", metavar="T", help="Start of the range, UTC; default: the stored state.")
@click.option("--until", metavar="T", help="End of the range; default: now.")
@scope_options
def backfill(
    since: str | None, until: str | None, currencies: tuple[str, ...], kinds: tuple[str, ...]
) -> int:
    """Load trades into ClickHouse until the range is covered.

    On SIGTERM the current window is finished and loaded, and the job exits with 143 if there is more to do: Batch then
    retries it, and the next attempt resumes.

    Example: python -m extract.aws.batch_backfill --since 2016-01-01 --currency BTC
    """
    stop = StopSignal()
    with stop_on_sigterm(stop):
        is_complete = _run_when_free(RunOptions(since, until, currencies, kinds), stop)
    return 0 if is_complete else INTERRUPTED


def _run_when_free(options: RunOptions, stop: StopSignal) -> bool:
    """Wait for another run to end, then run. Returns whether the range is covered."""
    # All attempts of a job are one holder, so that an attempt takes over from one that was killed.
    holder = f"batch {os.environ.get('AWS_BATCH_JOB_ID') or uuid.uuid4().hex[:12]}"
    deadline_s = time.monotonic() + WAIT_FOR_OTHER_RUN_S
    while True:
        try:
            return run_in_workspace(options, stop, holder).is_complete
        except AnotherRunError as error:
            if stop.is_requested:
                print(f"Stopped {stop.reason} while waiting for another run; the next attempt resumes.")
                return False
            if time.monotonic() > deadline_s:
                raise
            print(error, flush=True)
            time.sleep(RETRY_EVERY_S)


if __name__ == "__main__":
    run_and_exit(backfill, "backfill")
