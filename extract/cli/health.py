"""`tape health`: health checks with an exit code."""

from __future__ import annotations

from dataclasses import Field, fields
from functools import partial
from typing import Any

import click

from extract.cli.options import Command, json_option, parsed, scope_options
from extract.cli.output import print_json_lines, print_table
from extract.errors import UsageError
from extract.health.thresholds import Limits, Thresholds
from extract.times import parse_duration

HEADER = ("state", "check", "detail")
COLOURS = {"ok": "green", "warn": "yellow", "unknown": "magenta", "alarm": "red"}


def _parse_limits(field: Field[Any], text: str, option: str) -> Limits:
    """Parse `26h:50h` for limits in seconds, `30:7` for others."""
    try:
        if field.metadata["unit"] != "seconds" and any(map(str.isalpha, text)):
            raise ValueError("units are for limits in seconds")
        warn, alarm = (parse_duration(part, option) for part in text.split(":"))
        return Limits(warn, alarm)
    except (UsageError, ValueError):
        example = _format(field, field.default)
        raise UsageError(
            f"{option} {text!r} does not name a limit to warn and one to alarm; write it like {example}."
        ) from None


def _format(field: Field[Any], limits: Any) -> str:
    if field.metadata["unit"] == "seconds":
        return ":".join(f"{seconds / 3600:g}h" for seconds in limits)
    return ":".join(f"{limit:g}" for limit in limits)


def threshold_options(command: Command) -> Command:
    """--raw W:A and so on, an option for each field of Thresholds."""
    for field in reversed(fields(Thresholds)):
        command = click.option(
            f"--{field.name}",
            callback=parsed(partial(_parse_limits, field)),
            metavar="W:A",
            default=_format(field, field.default),
            help=f"{field.metadata['of']}: limits to warn and to alarm.",
        )(command)
    return command


@click.command()
@json_option
@threshold_options
@scope_options
def health(as_json: bool, currencies: tuple[str, ...], kinds: tuple[str, ...], **limits: Limits) -> int:
    """Check freshness, gaps, push, certificates and disk.

    One line each. Checks the database of CLICKHOUSE_MODE; push only in local and where a cloud is configured,
    certificates only where there are any. What cannot be read is never ok. docs/health.md shows it under cron, systemd
    and CloudWatch.

    Exit code: 0 ok, or only warnings; 1 an alarm; 2 a check cannot tell, and none is an alarm.

    Example: tape health --raw 2h:6h --currency BTC
    """
    from extract.coverage.gaps import Scope
    from extract.health.checks import exit_code, run_checks

    checks = run_checks(Thresholds(**limits), Scope.of(currencies, kinds))
    if as_json:
        print_json_lines(check.to_json() for check in checks)
    else:
        rows = [(check.state.name.lower(), check.check, check.text) for check in checks]
        print_table(HEADER, rows, COLOURS)
    return exit_code(checks)
