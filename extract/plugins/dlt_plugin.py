"""Plugin for dlt's command line: `dlt pipeline run`, and dlt's own files below `.tape/`.

dlt imports this module whenever it starts, so everything slow is imported where it is used.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import nan
from typing import TYPE_CHECKING, Any

from dlt.common.configuration.plugins import SupportsCliCommand, hookimpl, only_host
from dlt.common.configuration.providers import ConfigProvider
from dlt.common.configuration.specs import RuntimeConfiguration
from dlt.common.exceptions import DltException
from dlt.common.runtime.run_context import RunContext

from extract.errors import OutsideError, TapeError, UsageError, printable
from extract.paths import ROOT, dlt_dir

if TYPE_CHECKING:
    from extract.deribit.transport.workers import Workers

MAX_MINUTES = 527_040
"""A year."""
_DESCRIPTION = """\
Loads Deribit's public trades into ClickHouse, from the stored state up to now.

    dlt pipeline run                                        new trades
    dlt pipeline run --since 2025-01-01 --currency BTC      BTC since 1 January 2025
    dlt pipeline run --since 7d --kind option --kind future
    dlt pipeline run --max-minutes 50                       stop after about 50 minutes; the next run resumes
    dlt pipeline run --plan --currency BTC                  estimate the run; loads nothing
    dlt pipeline run --again --since 7d                     load what the exchange has changed in a week
"""
"""Markdown, as dlt renders descriptions: indented lines keep their shape."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells expect it and `tape` has it."""


class TapeRunContext(RunContext):
    """dlt's run context with the checkout as its home, so that dlt writes nothing outside of it.

    dlt reads its settings before any command can report an error of them: the process ends with one sentence.
    """

    def initial_providers(self) -> list[ConfigProvider]:
        with _exit_if_settings_are_wrong():
            return super().initial_providers()

    def initialize_runtime(self, runtime_config: RuntimeConfiguration | None = None) -> None:
        with _exit_if_settings_are_wrong():
            super().initialize_runtime(runtime_config)  # type: ignore[arg-type]  # None is dlt's default

    @property
    def global_dir(self) -> str:
        return str(dlt_dir(_mode()))

    @property
    def run_dir(self) -> str:
        return str(ROOT)


@contextmanager
def _exit_if_settings_are_wrong() -> Iterator[None]:
    try:
        yield
    except (DltException, ValueError, OSError) as error:
        text = printable(" ".join(str(error).split()))
        print(
            f"dlt's settings, of .dlt/ or RUNTIME__… in the environment, are wrong: {text}", file=sys.stderr
        )
        raise SystemExit(UsageError.exit_code) from error


@hookimpl(specname="plug_run_context")
def plug_run_context(run_dir: str | None, runtime_kwargs: dict[str, Any] | None) -> RunContext | None:
    """Use TapeRunContext wherever dlt is started, except in the directory of another dlt project."""
    start = os.path.realpath(run_dir or ".")
    is_another = os.path.isdir(os.path.join(start, ".dlt")) and start != str(ROOT)
    return None if is_another else TapeRunContext(run_dir)


class RunCommand(SupportsCliCommand):
    """`dlt pipeline run`, and `dlt pipeline deribit_trades run`."""

    command = "run"
    parent = "pipeline"
    help_string = "Load Deribit's public trades into ClickHouse: new ones, or those of a time range"
    description = _DESCRIPTION
    docs_url = None

    def configure_parser(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--since", metavar="T", help="start of the range, UTC: 2025-01-31, 2025-01-31T08:00Z, 7d"
        )
        parser.add_argument("--until", metavar="T", help="end of the range; default: now")
        parser.add_argument(
            "--currency", metavar="C", action="append", nargs="+", help="BTC, ETH, ...; default: all"
        )
        parser.add_argument(
            "--kind", metavar="K", action="append", nargs="+", help="option, future, spot, ...; default: all"
        )
        parser.add_argument(
            "--max-minutes",
            metavar="N",
            help="after N minutes finish and load the current window and exit, as on SIGTERM",
        )
        parser.add_argument(
            "--plan", action="store_true", help="load nothing: estimate the run from a few sample pages"
        )
        parser.add_argument(
            "--again",
            action="store_true",
            help="read covered time since --since once more, and load the trades that the exchange has changed",
        )

    def execute(self, args: argparse.Namespace) -> None:
        # dlt would add a link to its own documentation, which does not cover the project's errors.
        try:
            _run(args)
        except TapeError as error:
            print(error, file=sys.stderr)
            raise SystemExit(error.exit_code) from error
        except KeyboardInterrupt:
            print("Interrupted; the same command resumes.", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None
        except OSError as error:  # the disk is full, a directory is not writable
            from extract.cli.output import file_error

            print(file_error(error), file=sys.stderr)
            raise SystemExit(OutsideError.exit_code) from error


def _run(args: argparse.Namespace) -> None:
    from extract.process import configure_process

    configure_process()
    _require_times(args)
    workers = _start_workers(args)
    from extract.cli.options import require_name
    from extract.cli.progress import RunProgress
    from extract.cli.run_summary import print_plan, print_summary
    from extract.estimate.plan import make_plan, run_and_compare
    from extract.pipeline.load import PIPELINE_NAME
    from extract.pipeline.run import run
    from extract.pipeline.stop import StopSignal, stop_on_sigterm
    from extract.pipeline.summary import IncompleteRunError
    from extract.source.options import RunOptions

    def flatten(option: str, values: list[list[str]] | None) -> tuple[str, ...]:
        """Accept `--currency BTC ETH`, `--currency BTC --currency ETH` and `--currency BTC,ETH` alike."""
        texts = [require_name(text, option) for group in values or () for text in group]
        return tuple(name for text in texts for name in text.split(",") if name)

    if getattr(args, "pipeline_name", None) not in (None, PIPELINE_NAME):
        raise UsageError(
            f"Pipeline {args.pipeline_name!r} does not exist; this project's is {PIPELINE_NAME}."
        )
    currencies, kinds = flatten("--currency", args.currency), flatten("--kind", args.kind)
    options = RunOptions(args.since, args.until, currencies, kinds, args.again)
    if args.plan and args.again:
        raise UsageError(
            "--plan estimates time that is not covered, and --again reads covered time: use one."
        )
    if args.plan:
        print_plan(make_plan(options))
        return
    stop = StopSignal(_limit_s(args.max_minutes))
    try:
        with stop_on_sigterm(stop), RunProgress() as progress:
            summary, comparison = run_and_compare(
                options, lambda: run(options, progress, stop, workers=workers)
            )
    except IncompleteRunError as error:
        print_summary(error.summary)
        raise
    print_summary(summary, comparison)


def _require_times(args: argparse.Namespace) -> None:
    """Raise UsageError for text that is no time, before a lock is taken and a server is reached.

    The run compares times with the clock of the exchange; this computer's may differ.
    """
    from extract.times import parse_time_ms

    for option, text in (("--since", args.since), ("--until", args.until)):
        if text is not None:
            parse_time_ms(text, option, round(time.time() * 1000))


def _mode() -> str:
    return os.environ.get("CLICKHOUSE_MODE") or "local"


def _start_workers(args: argparse.Namespace) -> Workers | None:
    """Start page workers while this process imports, where the run is likely to fetch many pages."""
    from extract.deribit.transport.workers import Workers

    has_run = (dlt_dir(_mode()) / "pipelines").is_dir()
    if expects_many_pages(plan=args.plan, since=args.since, has_run=has_run):
        with suppress(OSError):
            return Workers()
    return None


def expects_many_pages(*, plan: bool, since: str | None, has_run: bool) -> bool:
    """Whether a run is likely to fetch many pages: a first run does, and one that goes back in time."""
    return not plan and (not has_run or bool(since))


def _limit_s(minutes: str | None) -> float | None:
    if minutes is None:
        return None
    limit = nan
    with suppress(ValueError):
        limit = float(minutes)
    if not 0 < limit <= MAX_MINUTES:
        raise UsageError(
            f"--max-minutes {minutes} is not a valid limit; give up to {MAX_MINUTES:,} minutes, for example 50."
        )
    return limit * 60


@hookimpl(specname="plug_cli")
@only_host("dlt")
def plug_cli(host: str) -> type[SupportsCliCommand]:
    return RunCommand
