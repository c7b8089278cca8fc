"""AWS Lambda: one increment, within the time that the invocation has."""

from __future__ import annotations

from typing import Any

from extract.aws.workspace import summary_to_json, work
from extract.clickhouse.lease import AnotherRunError
from extract.errors import TapeError
from extract.pipeline.options import RunOptions
from extract.pipeline.stop import StopSignal

WORKING_SHARE = 0.7
"""Of the time that is left; the rest is for finishing the window at work and for loading it."""


class InvocationFailedError(Exception):
    """Ends the invocation as failed, with one sentence."""


def lambda_handler(event: dict[str, Any] | None, context: Any) -> dict[str, Any]:
    """Runs from where the state stands to now, or for as long as there is time; the next invocation goes on.

    `event` may narrow it: {"currencies": ["BTC"], "kinds": ["option"], "since": "7d"}. Returns {"status": "done" |
    "more" | "busy", …}; busy: another run, the backfill for example, is at work on the database.
    """
    stop = StopSignal(context.get_remaining_time_in_millis() / 1000 * WORKING_SHARE)
    try:
        return summary_to_json(work(_options(event or {}), stop, f"lambda {context.function_name}"))
    except AnotherRunError as error:
        print(error)
        return {"status": "busy", "notes": [str(error)]}
    except TapeError as error:
        raise InvocationFailedError(str(error)) from None


def _options(event: dict[str, Any]) -> RunOptions:
    """A scheduled event says nothing of this, and everything is taken."""
    return RunOptions(
        since=event.get("since"),
        until=event.get("until"),
        currencies=tuple(event.get("currencies", ())),
        kinds=tuple(event.get("kinds", ())),
    )
