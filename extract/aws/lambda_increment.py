"""AWS Lambda: one increment, within the time of the invocation."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from extract.aws.workspace import run_in_workspace, summary_to_json
from extract.clickhouse.lease import AnotherRunError
from extract.errors import TapeError, UsageError
from extract.pipeline.stop import StopSignal
from extract.source.options import RunOptions

FETCHING_SHARE = 0.7
"""Share of the remaining time for fetching; the rest is for finishing and loading the current window."""


class InvocationFailedError(Exception):
    """Fails the invocation with one sentence."""


def lambda_handler(event: dict[str, Any] | None, context: Any) -> dict[str, Any]:
    """Run from the stored state to now, or for as long as the time allows; the next invocation resumes.

    `event` may select streams and times: {"currencies": ["BTC"], "kinds": ["option"], "since": "7d"}. Returns
    {"status": "done" | "more" | "busy", …}; busy means that another run, such as the backfill, holds the lease. Raises
    InvocationFailedError.
    """
    stop = StopSignal(context.get_remaining_time_in_millis() / 1000 * FETCHING_SHARE)
    holder = f"lambda {context.function_name}"
    try:
        return summary_to_json(run_in_workspace(_options(event or {}), stop, holder))
    except AnotherRunError as error:
        print(error)
        return {"status": "busy", "notes": [str(error)]}
    except TapeError as error:
        raise InvocationFailedError(str(error)) from None


def _options(event: dict[str, Any]) -> RunOptions:
    """Options of an event; a scheduled event has none of them and selects everything."""
    names = [each.name for each in fields(RunOptions)]
    unknown = event.keys() - names
    # A schedule sends fields of its own.
    if unknown and "detail-type" not in event:
        raise UsageError(f"The event has {', '.join(sorted(unknown))}; it can have {', '.join(names)}.")
    return RunOptions(**{name: event[name] for name in names if name in event})
