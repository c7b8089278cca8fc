"""`tape cost`: what it did cost, what left, what it will cost."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

import click

from extract.errors import CannotTellError, UsageError
from extract.times import parse_day

if TYPE_CHECKING:
    from extract.cost.billing.baseline import Baseline
    from extract.cost.billing.charges import Days
    from extract.cost.billing.egress import Egress

CLOUDS = ("clickhouse", "aws")


class CostGroup(click.Group):
    """`plan` is a module of its own, imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), "plan"]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name == "plan":
            return importlib.import_module("extract.cli.cost_plan").plan
        return super().get_command(ctx, name)


@click.group(cls=CostGroup)
def cost() -> None:
    """Show what was charged, what left, and what a backfill or a month of increments will cost.

    Bills are read with CLICKHOUSE_CLOUD_ORGANIZATION_ID, CLICKHOUSE_CLOUD_API_KEY_ID and
    CLICKHOUSE_CLOUD_API_KEY_SECRET, and with AWS's own variables. What cannot be read is unknown, never 0.

    Example: tape cost baseline --days 30
    """


def bill_options(days: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """--days, --until, --cloud and --json."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        options = [
            click.option(
                "--days",
                type=click.IntRange(1, 366),
                default=days,
                show_default=True,
                help="So many UTC days.",
            ),
            click.option(
                "--until",
                metavar="DAY",
                help="The last day, included; default: yesterday, the last whole one.",
            ),
            click.option(
                "--cloud",
                "clouds",
                multiple=True,
                type=click.Choice(CLOUDS),
                help="One cloud alone; default: both.",
            ),
            click.option("--json", "as_json", is_flag=True, help="For machines; amounts are decimal text."),
        ]
        for option in reversed(options):
            command = option(command)
        return command

    return add


@cost.command()
@bill_options(30)
@click.option("--by-component", is_flag=True, help="AWS by its tag `component` (increment, backfill).")
@click.option("--project", is_flag=True, help="Of AWS only what is tagged project=deribit-tape.")
def baseline(
    days: int, until: str | None, clouds: tuple[str, ...], as_json: bool, by_component: bool, project: bool
) -> int:
    """Show what the last days cost in both clouds, by service and kind of charge.

    Each request of AWS Cost Explorer is itself charged, with 0.01 USD; how many there were is said.

    Exit code: 0 all of it was read, 2 a cloud's bill is unknown.

    Example: tape cost baseline --days 31 --until 2026-10-31
    """
    from extract.cost.billing.baseline import baseline as baseline_of

    today = _today()
    found = baseline_of(
        _days(days, until, today), clouds or CLOUDS, by_component=by_component, project=project
    )
    if as_json:
        click.echo(json.dumps(_baseline_json(found, today), indent=1))
    else:
        _show_baseline(found, today)
    return CannotTellError.exit_code if found.unread else 0


@cost.command()
@click.option("--threshold", required=True, metavar="GB", help="An alarm above so many GB (10^9 bytes).")
@bill_options(7)
def egress(threshold: str, days: int, until: str | None, clouds: tuple[str, ...], as_json: bool) -> int:
    """Hold what left the clouds against a threshold.

    ClickHouse Cloud by what it charged for the internet and other regions, AWS by NetworkOut of its instances.

    Exit code: 0 at or below the threshold, 1 above it, 2 below it as far as it could be read.

    Example: tape cost egress --threshold 50 --days 7
    """
    from extract.cost.billing.egress import egress as egress_of

    found = egress_of(_days(days, until, _today()), _gb(threshold), clouds or CLOUDS)
    if as_json:
        click.echo(json.dumps(_egress_json(found), indent=1))
    else:
        _show_egress(found)
    return found.exit_code


def _today() -> date:
    return datetime.now(UTC).date()


def _days(days: int, until: str | None, today: date) -> Days:
    from extract.cost.billing.charges import Days

    last = parse_day(until, "--until") if until else today - timedelta(1)
    if last > today:
        raise UsageError(f"--until {last} is still to come; today is {today} in UTC.")
    return Days(last - timedelta(days - 1), last)


def _gb(text: str) -> Decimal:
    try:
        gb = Decimal(text)
    except InvalidOperation:
        gb = Decimal(-1)
    if not gb.is_finite() or gb < 0:
        raise UsageError(f"--threshold {text!r} is no number of GB; write it like 50 or 0.5.")
    return gb


def _show_baseline(found: Baseline, today: date) -> None:
    from extract.cli.output import format_table
    from extract.cost.billing.money import UNKNOWN, usd

    click.echo(f"{found.days}: {len(found.days)} days, UTC")
    rows: list[tuple[str, str, str, str, str]] = []
    for cloud in (*found.read, *found.unread):
        shown = [] if cloud in found.unread else found.shown(cloud)
        rows += [(*_named(line), usd(cents), usd(line.open_usd)) for line, cents in shown]
        of_it = (
            UNKNOWN if cloud in found.unread else usd(sum((each.open_usd for each, _ in shown), Decimal(0)))
        )
        rows.append((cloud, "", "all of it", usd(found.total_of(cloud)), of_it))
    if len(found.read) + len(found.unread) > 1:
        rows.append(
            ("both", "", "all of it", usd(found.total), UNKNOWN if found.unread else usd(found.open_usd))
        )
    for line in format_table(("cloud", "service", "charge", "USD", "may still change"), rows):
        click.echo(line)
    for note in found.notes(today):
        click.echo(note)


def _named(line: Any) -> tuple[str, str, str]:
    return line.cloud, line.service, line.kind


def _baseline_json(found: Baseline, today: date) -> dict[str, Any]:
    clouds = (*found.read, *found.unread)
    return {
        "first_day": str(found.days.first),
        "last_day": str(found.days.last),
        "total_usd": None if found.total is None else str(found.total),
        "clouds": {
            cloud: None if found.total_of(cloud) is None else str(found.total_of(cloud)) for cloud in clouds
        },
        "lines": [
            {
                "cloud": line.cloud,
                "service": line.service,
                "kind": line.kind,
                "usd": str(line.usd),
                "open_usd": str(line.open_usd),
            }
            for line in found.lines
        ],
        "cost_explorer_requests": found.requests,
        "notes": found.notes(today),
    }


def _show_egress(found: Egress) -> None:
    from extract.cli.output import format_table

    click.echo(f"{found.days}: {len(found.days)} days, UTC")
    rows = [(source, _gb_text(gb)) for source, gb in found.gb.items()]
    rows.append(("all that is known", _gb_text(found.known_gb)))
    for line in format_table(("source", "GB"), rows):
        click.echo(line)
    for note in (*found.notes, *found.unread):
        click.echo(note)
    verdict = "above" if found.is_over else "not above, as far as is known," if found.unread else "not above"
    click.echo(f"{_gb_text(found.known_gb)} GB: {verdict} the threshold of {found.threshold_gb} GB.")


def _gb_text(gb: Decimal | None) -> str:
    from extract.cost.billing.money import UNKNOWN

    return UNKNOWN if gb is None else f"{gb:,.3f}"


def _egress_json(found: Egress) -> dict[str, Any]:
    return {
        "first_day": str(found.days.first),
        "last_day": str(found.days.last),
        "gb": {source: None if gb is None else str(gb) for source, gb in found.gb.items()},
        "known_gb": str(found.known_gb),
        "threshold_gb": str(found.threshold_gb),
        "is_over": found.is_over,
        "notes": [*found.notes, *found.unread],
    }
