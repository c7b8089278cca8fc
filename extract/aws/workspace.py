"""Shared parts of the Lambda and Batch entry points: an empty working directory, and one run in it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from extract.aws.secret import cloud_environment
from extract.cli.progress import RunProgress
from extract.cli.run_summary import notes, print_summary
from extract.clickhouse.settings import clickhouse_settings
from extract.pipeline.options import RunOptions
from extract.pipeline.run import RunSummary, run
from extract.pipeline.stop import StopSignal

WORKSPACE = Path(tempfile.gettempdir()) / "deribit-tape"


@contextmanager
def temporary_workspace() -> Iterator[dict[str, str]]:
    """Create an empty TAPE_DIR in /tmp and read the settings from the secret; the directory is deleted afterwards.

    Files that a killed invocation left in a warm /tmp are deleted, because another run may have continued from
    the state in ClickHouse since. The path is the same each time, so that connections stay warm.
    """
    shutil.rmtree(WORKSPACE, ignore_errors=True)
    WORKSPACE.mkdir(mode=0o700)
    os.environ["TAPE_DIR"] = str(WORKSPACE)
    try:
        yield cloud_environment(WORKSPACE)
    finally:
        shutil.rmtree(WORKSPACE, ignore_errors=True)


def run_in_workspace(options: RunOptions, stop: StopSignal, holder: str) -> RunSummary:
    """Run once, from the state in ClickHouse, and print the summary."""
    with temporary_workspace() as env, RunProgress() as progress:
        summary = run(options, progress, stop, settings=clickhouse_settings(env=env), holder=holder)
    print_summary(summary)
    return summary


def summary_to_json(summary: RunSummary) -> dict[str, Any]:
    """The summary as a Lambda result; `status` is `done`, or `more` where the run was stopped early."""
    return {
        "status": "done" if summary.is_complete else "more",
        "trades": summary.total + summary.repaired,
        "windows": summary.windows,
        "requests": summary.requests,
        "wire_bytes": summary.wire_bytes,
        "seconds": round(summary.seconds, 3),
        "notes": notes(summary),
    }
