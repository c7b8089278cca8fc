"""Shared parts of the Lambda and Batch entry points: an empty working directory, one run in it, and the event of a load."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from extract.aws.secret import cloud_environment
from extract.cli.progress import RunProgress
from extract.cli.run_summary import notes, print_summary
from extract.clickhouse.settings import clickhouse_settings
from extract.pipeline.run import run
from extract.pipeline.stop import StopSignal
from extract.pipeline.summary import RunSummary
from extract.source.options import RunOptions

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
    """Run once, from the state in ClickHouse, then print and publish the summary."""
    with temporary_workspace() as env, RunProgress() as progress:
        summary = run(options, progress, stop, settings=clickhouse_settings(env=env), holder=holder)
    print_summary(summary)
    publish_load(summary_to_json(summary))
    return summary


def publish_load(result: dict[str, Any]) -> None:
    """Publish the result to the topic of TAPE_LOADS_TOPIC, if trades were loaded. A failure is printed: they are loaded."""
    topic = os.environ.get("TAPE_LOADS_TOPIC")
    if not topic or not result["trades"]:
        return
    try:
        # SIGTERM may come at this moment: it has to end in time.
        config = Config(connect_timeout=3, read_timeout=5, retries={"total_max_attempts": 2})
        boto3.client("sns", config=config).publish(
            TopicArn=topic, Subject="deribit-tape: new trades", Message=json.dumps(result)
        )
    except (BotoCoreError, ClientError) as error:
        print(f"The event of this load was not published: {error}")


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
