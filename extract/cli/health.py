"""`tape health`: health checks with an exit code."""

from __future__ import annotations

from dataclasses import Field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import click

from extract.cli.options import Command, json_option, parsed, scope_options
from extract.cli.output import echo, print_json_lines, print_table
from extract.errors import TapeError, UsageError
from extract.health.thresholds import Limits, Thresholds, limit_fields
from extract.times import parse_duration

if TYPE_CHECKING:
    from extract.health.checks import Check
    from extract.health.notify import Webhook

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
    for name, field in reversed([*limit_fields().items()]):
        command = click.option(
            f"--{name}",
            callback=parsed(partial(_parse_limits, field)),
            metavar="W:A",
            default=_format(field, field.default),
            help=f"{field.metadata['of']}: limits to warn and to alarm.",
        )(command)
    return command


notify_option = click.option(
    "--notify",
    "notify_url",
    metavar="URL",
    envvar="TAPE_NOTIFY_URL",
    help="Webhook to post changes of state to; TAPE_NOTIFY_URL, or a file named by TAPE_NOTIFY_URL_FILE, hides it.",
)
form_option = click.option(
    "--notify-format",
    "form",
    type=click.Choice(["slack", "json"]),
    envvar="TAPE_NOTIFY_FORMAT",
    default="slack",
    show_default=True,
    help="Body of the post: Slack's, or the changes as JSON.",
)
only_option = click.option(
    "--check",
    "only",
    type=click.Choice([*limit_fields()]),
    metavar="NAME",
    multiple=True,
    help="Run this check only; repeatable; default: all.",
)
backup_option = click.option(
    "--require-backup", "requires_backup", is_flag=True, help="Warn if there is no proven backup."
)


@click.command()
@json_option
@notify_option
@form_option
@only_option
@backup_option
@threshold_options
@scope_options
def health(
    as_json: bool,
    notify_url: str | None,
    form: Literal["slack", "json"],
    only: tuple[str, ...],
    requires_backup: bool,
    currencies: tuple[str, ...],
    kinds: tuple[str, ...],
    **limits: Limits,
) -> int:
    """Check freshness, gaps, models, runs, backups, certificates and disks.

    One line each. Checks the database of CLICKHOUSE_MODE; push only in local and where a cloud is configured,
    certificates only where there are any. What cannot be read is never ok. docs/health.md shows it under cron, systemd
    and CloudWatch; docs/runbooks.md explains what each check means and what to do.

    With --notify, changes of state are posted to a webhook. A webhook that does not accept them changes neither the
    result nor the exit code; the next call posts them again.

    Exit code: 0 ok, or only warnings; 1 an alarm; 2 a check cannot tell, and none is an alarm.

    Example: tape health --raw 2h:6h --currency BTC
    """
    from extract.clickhouse.settings import clickhouse_settings
    from extract.coverage.gaps import Scope
    from extract.health.checks import exit_code, run_checks
    from extract.health.notify import Webhook

    webhook = Webhook.of(notify_url, form)
    thresholds = Thresholds(**limits, requires_backup=requires_backup)
    scope = Scope.of(currencies, kinds)
    checks = run_checks(thresholds, scope, only=only)
    if as_json:
        print_json_lines(check.to_json() for check in checks)
    else:
        rows = [(check.state.name.lower(), check.check, check.text) for check in checks]
        print_table(HEADER, rows, COLOURS)
    if webhook:
        names = (*scope.currencies, *scope.kinds, *sorted(only))
        _post_changes(checks, webhook, " ".join((clickhouse_settings().url, *names)))
    return exit_code(checks)


def _post_changes(checks: list[Check], webhook: Webhook, scope: str) -> None:
    from extract.health.notify import notify

    try:
        notify(checks, webhook, scope=scope)
    except (TapeError, OSError) as error:
        echo(str(error), err=True)
