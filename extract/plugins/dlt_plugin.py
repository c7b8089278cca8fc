"""Our part of dlt's command line: `dlt pipeline run`, and dlt's own files kept inside of `.tape/`.

dlt loads this module at each of its starts: whatever costs time is imported where it is used.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from dlt.common.configuration.plugins import SupportsCliCommand, hookimpl, only_host
from dlt.common.runtime.run_context import RunContext

from extract.paths import ROOT, dlt_dir

if TYPE_CHECKING:
    from extract.deribit.transport.workers import Workers

_DESCRIPTION = """\
Fetches Deribit's public trades into ClickHouse, from where the state stands to now.

    dlt pipeline run                                        what is new
    dlt pipeline run --since 2025-01-01 --currency BTC      BTC since new year
    dlt pipeline run --since 7d --kind option --kind future
    dlt pipeline run --max-minutes 50                       what can be done in 50 minutes; the next run goes on
    dlt pipeline run --plan --currency BTC                  what that would take; loads nothing
"""
"""Markdown, as dlt renders descriptions: indented lines keep their shape."""


class TapeRunContext(RunContext):
    """dlt's run context with the checkout as its home: nothing is written outside of it."""

    @property
    def global_dir(self) -> str:
        return str(dlt_dir(os.environ.get("CLICKHOUSE_MODE") or "local"))

    @property
    def run_dir(self) -> str:
        return str(ROOT)


@hookimpl(specname="plug_run_context")
def plug_run_context(run_dir: str | None, runtime_kwargs: dict[str, Any] | None) -> RunContext | None:
    """Ours wherever dlt is started, but for a directory that is another dlt project."""
    start = os.path.realpath(run_dir or ".")
    is_another = os.path.isdir(os.path.join(start, ".dlt")) and start != str(ROOT)
    return None if is_another else TapeRunContext(run_dir)


class RunCommand(SupportsCliCommand):
    """`dlt pipeline run`, and `dlt pipeline deribit_trades run`."""

    command = "run"
    parent = "pipeline"
    help_string = "Fetch Deribit's public trades into ClickHouse: what is new, or the time asked for"
    description = _DESCRIPTION
    docs_url = None

    def configure_parser(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--since", metavar="T", help="from this time on, UTC: 2025-01-31, 2025-01-31T08:00Z, 7d"
        )
        parser.add_argument("--until", metavar="T", help="up to this time; default: now")
        parser.add_argument(
            "--currency", metavar="C", action="append", nargs="+", help="BTC, ETH, ...; default: all"
        )
        parser.add_argument(
            "--kind", metavar="K", action="append", nargs="+", help="option, future, spot, ...; default: all"
        )
        parser.add_argument(
            "--max-minutes",
            metavar="N",
            type=float,
            help="begin nothing new after N minutes: finish the window at work and end; so does SIGTERM",
        )
        parser.add_argument(
            "--plan", action="store_true", help="load nothing: tell from a few probes what the run would take"
        )

    def execute(self, args: argparse.Namespace) -> None:
        from extract.process import configure_process

        configure_process()
        workers = _workers_for(args)
        from extract.cli.run_summary import print_plan, print_summary
        from extract.errors import TapeError, UsageError
        from extract.estimate.plan import make_plan, run_and_compare
        from extract.pipeline.load import PIPELINE_NAME
        from extract.pipeline.run import RunOptions, run
        from extract.pipeline.stop import StopSignal, stop_on_sigterm

        try:
            if getattr(args, "pipeline_name", None) not in (None, PIPELINE_NAME):
                raise UsageError(f"There is no pipeline {args.pipeline_name!r}; ours is {PIPELINE_NAME}.")
            options = RunOptions(args.since, args.until, _flat(args.currency), _flat(args.kind))
            if args.plan:
                print_plan(make_plan(options))
            else:
                stop = StopSignal(_seconds(args.max_minutes))
                with stop_on_sigterm(stop):
                    print_summary(*run_and_compare(options, lambda: run(options, stop=stop, workers=workers)))
        except TapeError as error:
            # dlt's own handling would add a link to its documentation, which says nothing of ours.
            print(error, file=sys.stderr)
            raise SystemExit(error.exit_code) from error


def _workers_for(args: argparse.Namespace) -> Workers | None:
    """A first run, or one that goes back, has pages for workers as a rule: they start while this process imports."""
    from extract.deribit.transport.workers import Workers

    pipelines = dlt_dir(os.environ.get("CLICKHOUSE_MODE") or "local") / "pipelines"
    if args.plan or (pipelines.is_dir() and not args.since):
        return None
    with suppress(OSError):
        return Workers()
    return None


def _seconds(minutes: float | None) -> float | None:
    from extract.errors import UsageError

    if minutes is not None and not 0 < minutes < float("inf"):
        raise UsageError(
            f"--max-minutes {minutes:g} is no time to work in; name minutes above 0, for example 50."
        )
    return None if minutes is None else minutes * 60


def _flat(values: list[list[str]] | None) -> tuple[str, ...]:
    """`--currency BTC ETH` and `--currency BTC --currency ETH` and `--currency BTC,ETH` alike."""
    return tuple(name for group in values or () for text in group for name in text.split(",") if name)


@hookimpl(specname="plug_cli")
@only_host("dlt")
def plug_cli(host: str) -> type[SupportsCliCommand]:
    return RunCommand
