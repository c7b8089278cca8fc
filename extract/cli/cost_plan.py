"""`tape cost plan`."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from extract.cli.gaps import scope_options
from extract.errors import UsageError

if TYPE_CHECKING:
    from extract.cost.plan.estimate import Estimate
    from extract.cost.plan.plan import CostPlan

SETTINGS = ("local", "own host", "cloud, on demand", "cloud, always on")


@click.command()
@click.option(
    "--since", metavar="T", help="Ask the exchange for what is missing since T: 2025-01-31, 30d, ..."
)
@click.option("--until", metavar="T", help="Up to this time; default: now.")
@scope_options
@click.option(
    "--scope",
    type=click.Choice(["btc-options", "everything"]),
    help="Known volumes; the exchange is not asked.",
)
@click.option(
    "--trades", type=click.IntRange(1), metavar="N", help="So many trades; the exchange is not asked."
)
@click.option(
    "--assume", is_flag=True, help="With --scope or --trades: go by assumptions alone, not by this database."
)
@click.option(
    "--set",
    "given",
    metavar="NAME=VALUE",
    multiple=True,
    help="Another value for an input, as often as wanted.",
)
@click.option("--json", "as_json", is_flag=True, help="For machines; figures are decimal text.")
def plan(
    since: str | None,
    until: str | None,
    currencies: tuple[str, ...],
    kinds: tuple[str, ...],
    scope: str | None,
    trades: int | None,
    assume: bool,
    given: tuple[str, ...],
    as_json: bool,
) -> int:
    """Show what a backfill, holding it, and a month of increments will take and cost.

    Without --scope and --trades the exchange is asked, with at most 12 probes for each currency and kind. What this
    database and earlier runs tell is measured; the rest is assumed; each figure says which. Nothing is loaded.

    Example: tape cost plan --scope btc-options --set idle_minutes=5
    """
    from extract.cost.plan.plan import cost_plan
    from extract.pipeline.run import RunOptions

    if (scope or trades) and (since or until or currencies or kinds):
        raise UsageError(
            "--scope and --trades ask nobody: leave out --since, --until, --currency and --kind."
        )
    if assume and not (scope or trades):
        raise UsageError("--assume asks nobody: name the volume with --scope or --trades.")
    asked = None if scope or trades else RunOptions(since, until, currencies, kinds)
    found = cost_plan(asked, scope=scope, trades=trades, given=given, assume=assume)
    if as_json:
        click.echo(json.dumps(plan_json(found), indent=1))
    else:
        show_plan(found)
    return 0


def show_plan(found: CostPlan) -> None:
    """Three tables, and the inputs that they rest on."""
    show_estimate(found.estimate)
    click.echo("\nInputs, each of which --set NAME=VALUE changes:")
    from extract.cli.output import format_table

    rows = [(each.name, number(each.value), each.unit, each.source) for each in found.inputs.used()]
    for line in format_table(("input", "value", "unit", "where from"), rows):
        click.echo(line)
    for note in found.notes:
        click.echo(note)


def show_estimate(found: Estimate) -> None:
    """Quantities of the backfill, its dollars and those of holding, and increments by cadence."""
    from extract.cli.output import format_table
    from extract.cost.billing.money import UNKNOWN, usd

    backfill, holding = found.backfill, found.holding
    quantities = [
        ("trades", f"{backfill.trades:,.0f}"),
        ("requests", f"{backfill.requests:,.0f}"),
        ("hours at the rate limit", f"{backfill.hours_at_rate_limit:,.3f}"),
        ("hours to fetch", f"{backfill.fetch_hours:,.3f}"),
        ("MB over the wire", f"{backfill.wire_bytes / 10**6:,.1f}"),
        ("MB at rest, compressed", f"{backfill.all_rest_bytes / 10**6:,.1f}"),
        *((f"  {table}", f"{size / 10**6:,.1f}") for table, size in backfill.rest_bytes.items()),
        ("compute hours of ClickHouse", f"{backfill.compute_unit_hours:,.3f}"),
        ("hours that it is awake", f"{backfill.awake_hours:,.3f}"),
    ]
    _table(format_table(("backfill", "figure"), quantities))
    rows = [(name, usd(backfill.usd[name]), usd(holding.usd[name])) for name in SETTINGS]
    _table(format_table(("USD", "backfill, once", "holding, a month"), rows))
    if None in holding.usd.values():
        click.echo(f"{UNKNOWN}: it does not fit the disk of the own host (host_disk_gb).")
    rows = [
        (
            f"every {each.every}",
            *(f"{figure:,.0f}" for figure in (each.runs, each.trades, each.requests)),
            f"{each.wire_bytes / 10**9:,.2f}",
            f"{each.awake_hours:,.1f}",
            usd(each.lambda_usd),
            *(usd(each.usd[name]) for name in SETTINGS[1:]),
            f"{each.saved:.0%}",
        )
        for each in found.increments
    ]
    header = (
        "a month of increments",
        "runs",
        "trades",
        "requests",
        "GB on the wire",
        "hours awake",
        "Lambda",
    )
    _table(format_table((*header, *SETTINGS[1:], "saved"), rows))
    click.echo(
        "USD a month, with holding; saved: on demand against always on. Local is your own machine: 0.00."
    )


def _table(lines: Any) -> None:
    for line in lines:
        click.echo(line)
    click.echo()


def number(value: Decimal) -> str:
    """Without an exponent, thousands set apart, no needless zeros."""
    text = f"{value:,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def plan_json(found: CostPlan) -> dict[str, Any]:
    """The estimate, every input with its source, and the notes."""
    backfill = {**vars(found.estimate.backfill), "all_rest_bytes": found.estimate.backfill.all_rest_bytes}
    return {
        "backfill": _texts(backfill),
        "holding": _texts(vars(found.estimate.holding)),
        "increments": [_texts({**vars(each), "saved": each.saved}) for each in found.estimate.increments],
        "inputs": [_texts(vars(each)) for each in found.inputs.used()],
        "notes": found.notes,
    }


def _texts(values: dict[str, Any]) -> dict[str, Any]:
    """Decimals as text, within tables too."""
    return {
        name: _texts(value)
        if isinstance(value, dict)
        else (f"{value:f}" if isinstance(value, Decimal) else value)
        for name, value in values.items()
    }
