"""`tape health`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from extract.cli.gaps import scope_options

if TYPE_CHECKING:
    from extract.health.checks import Check

HEADER = ("state", "check", "what")
OPTIONS = {
    "raw": ("26h:50h", "lag of covered time"),
    "marts": ("26h:50h", "lag of the models behind the loads"),
    "push": ("26h:50h", "lag of what is proven on cloud"),
    "gaps": ("1:1000", "missing trades"),
    "certificates": ("30:7", "days left"),
    "disk": ("20:10", "per cent free"),
}
_UNIT_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def threshold_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--raw W:A and so on, one for each check."""
    for name, (default, what) in reversed(OPTIONS.items()):
        text = f"{what}: from where on to warn, and to alarm."
        command = click.option(f"--{name}", metavar="W:A", default=default, show_default=True, help=text)(
            command
        )
    return command


@click.command()
@click.option("--json", "as_json", is_flag=True, help="A list for machines.")
@threshold_options
@scope_options
def health(as_json: bool, currencies: tuple[str, ...], kinds: tuple[str, ...], **limits: str) -> int:
    """Tell whether all is fresh and sound: raw trades, models, push, gaps, certificates, disk; a line each.

    Asks the database of CLICKHOUSE_MODE. Push is looked at in local where a cloud is configured, certificates where
    there are any. What cannot be read is never ok. docs/health.md shows it under cron, systemd and CloudWatch.

    Exit code: 0 ok, or warnings alone; 1 an alarm; 2 something cannot be told, and nothing is an alarm.

    Example: tape health --raw 2h:6h --currency BTC
    """
    from extract.cli.gaps import json_lines
    from extract.coverage.gaps import Scope
    from extract.health.checks import Limits, Thresholds, exit_code
    from extract.health.checks import health as health_of

    thresholds = Thresholds(**{name: Limits(*_limits(name, text)) for name, text in limits.items()})
    checks = health_of(thresholds, Scope.of(currencies, kinds))
    if as_json:
        click.echo(json_lines([check.to_json() for check in checks]))
    else:
        show(checks)
    return exit_code(checks)


def show(checks: list[Check]) -> None:
    """A line each; the state in colour on a terminal."""
    from extract.cli.output import format_table

    colours = {"ok": "green", "warn": "yellow", "unknown": "magenta", "alarm": "red"}
    lines = format_table(HEADER, [(check.state.name.lower(), check.check, check.text) for check in checks])
    click.echo(next(lines))
    for check, line in zip(checks, lines, strict=True):
        state = check.state.name.lower()
        click.echo(click.style(state, fg=colours[state]) + line[len(state) :])


def _limits(name: str, text: str) -> tuple[float, float]:
    """`26h:50h` in seconds, `30:7` as it is."""
    from extract.errors import UsageError

    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?):(\d+(?:\.\d+)?)([smhd]?)", text)
    is_time = OPTIONS[name][0].endswith("h")
    if not found or (not is_time and (found[2] or found[4])):
        raise UsageError(
            f"--{name} {text!r} says not from where on to warn and to alarm; write it like {OPTIONS[name][0]}."
        )
    return float(found[1]) * _UNIT_S[found[2]], float(found[3]) * _UNIT_S[found[4]]
