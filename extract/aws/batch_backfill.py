"""AWS Batch entry point: an interruptible backfill (`python -m extract.aws.batch_backfill --since 2016-01-01`)."""

from __future__ import annotations

import os
import signal
import sys
import time
import uuid

import click

from extract.aws.workspace import work
from extract.clickhouse.lease import AnotherRunError
from extract.errors import TapeError, UsageError
from extract.pipeline.options import RunOptions
from extract.pipeline.stop import StopSignal, stop_on_sigterm

WAIT_FOR_OTHER_RUN_S = 20 * 60.0
"""An increment is over in a quarter of an hour at the most."""
ASKED_AGAIN_S = 5.0
INTERRUPTED = 128 + signal.SIGTERM
"""Batch counts a job that ends with 0 as done, whatever is left to do, and does not try it again."""


@click.command()
@click.option("--since", metavar="T", help="From this time on, UTC; default: from where the state stands.")
@click.option("--until", metavar="T", help="Up to this time; default: now.")
@click.option("--currency", "currencies", multiple=True, help="BTC, ETH, ...; default: all.")
@click.option("--kind", "kinds", multiple=True, help="option, future, spot, ...; default: all.")
def backfill(
    since: str | None, until: str | None, currencies: tuple[str, ...], kinds: tuple[str, ...]
) -> None:
    """Fetch trades into ClickHouse until all that is asked for is there, or SIGTERM comes: then the window at work
    is finished and loaded, and the job ends with 143 where there is more to do: Batch tries again and goes on there.

    Example: python -m extract.aws.batch_backfill --since 2016-01-01 --currency BTC
    """
    stop = StopSignal()
    with stop_on_sigterm(stop):
        is_complete = _run_when_free(RunOptions(since, until, currencies, kinds), stop)
    if not is_complete:
        sys.exit(INTERRUPTED)


def _run_when_free(options: RunOptions, stop: StopSignal) -> bool:
    """Waits for an increment that is at work, and runs; whether all is there that was asked for."""
    # An attempt that was killed is followed by another one of the same job.
    holder = f"batch {os.environ.get('AWS_BATCH_JOB_ID') or uuid.uuid4().hex[:12]}"
    give_up_s = time.monotonic() + WAIT_FOR_OTHER_RUN_S
    while True:
        try:
            return work(options, stop, holder).is_complete
        except AnotherRunError as error:
            if stop.is_requested:
                print(f"Stopped {stop.reason} before another run was over; the same job goes on from there.")
                return False
            if time.monotonic() > give_up_s:
                raise
            print(error, flush=True)
            time.sleep(ASKED_AGAIN_S)


def main() -> None:
    """Runs the job; exit codes as everywhere in the project, see `extract.errors`."""
    try:
        backfill.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(UsageError.exit_code)
    except TapeError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
