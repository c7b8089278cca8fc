"""What Lambda and Batch share: a place to work that is new each time, and one run of the pipeline in it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from extract.aws.secret import settings_from_secret
from extract.cli.progress import RunProgress
from extract.cli.run_summary import notes, print_summary
from extract.clickhouse.settings import ClickHouseSettings
from extract.pipeline.options import RunOptions
from extract.pipeline.run import RunSummary, run
from extract.pipeline.stop import StopSignal

WORKSPACE = Path(tempfile.gettempdir()) / "deribit-tape"


@contextmanager
def temporary_workspace() -> Iterator[ClickHouseSettings]:
    """An empty TAPE_DIR in /tmp and the settings from the secret, for the length of the block.

    What an invocation that was cut off left in a warm /tmp is deleted and not gone on with: whoever ran meanwhile has
    gone on from the state in ClickHouse. The place bears the same name each time, so that connections stay warm.
    """
    shutil.rmtree(WORKSPACE, ignore_errors=True)
    WORKSPACE.mkdir(mode=0o700)
    os.environ["TAPE_DIR"] = str(WORKSPACE)
    try:
        yield settings_from_secret(WORKSPACE)
    finally:
        shutil.rmtree(WORKSPACE, ignore_errors=True)


def work(options: RunOptions, stop: StopSignal, holder: str) -> RunSummary:
    """One run, from the state in ClickHouse; its summary is printed."""
    with temporary_workspace() as settings, RunProgress() as progress:
        summary = run(options, progress, stop, settings=settings, holder=holder)
    print_summary(summary)
    return summary


def summary_to_json(summary: RunSummary) -> dict[str, Any]:
    """The summary for machines."""
    return {
        "status": "done" if summary.is_complete else "more",
        "trades": summary.total + summary.repaired,
        "windows": summary.windows,
        "requests": summary.requests,
        "wire_bytes": summary.wire_bytes,
        "seconds": round(summary.seconds, 3),
        "notes": notes(summary),
    }
