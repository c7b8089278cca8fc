"""`tape poc-backfill`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from extract.cli.gaps import scope_options

if TYPE_CHECKING:
    from extract.cost.measure.month_backfill import MonthBackfill


@click.command()
@click.option("--month", required=True, metavar="YYYY-MM", help="A month that is over, UTC.")
@scope_options
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def poc_backfill(month: str, currencies: tuple[str, ...], kinds: tuple[str, ...], as_json: bool) -> int:
    """Load one month, and show what was planned, what it used, and what more would use.

    It is an ordinary run: what it loads stays, and what is loaded already is not fetched again. `tape cost plan` uses
    its speed.

    Example: tape poc-backfill --month 2026-10 --currency BTC --kind option
    """
    from extract.cost.measure.month_backfill import poc_backfill as run_poc

    found = run_poc(month, currencies, kinds)
    if as_json:
        click.echo(json.dumps(poc_json(found), indent=1))
    else:
        show(found)
    return 0


def show(found: MonthBackfill) -> None:
    """The run's summary with plan beside fact, and the extrapolation."""
    from extract.cli.output import format_table
    from extract.cli.run_summary import print_summary
    from extract.cost.billing.money import usd

    print_summary(found.summary, found.comparison)
    if not found.extrapolated:
        click.echo(f"Nothing of {found.used.month} was left to fetch, so nothing can be extrapolated.")
        return
    click.echo(
        f"{found.used.cpu_seconds:,.1f} processor seconds of this process and its workers. At these figures for each trade:"
    )
    rows = [
        (
            name,
            f"{each.trades:,.0f}",
            f"{each.requests:,.0f}",
            f"{each.fetch_hours:,.2f}",
            f"{each.wire_bytes / 10**6:,.1f}",
            f"{each.all_rest_bytes / 10**6:,.1f}",
            usd(each.usd["cloud, on demand"]),
        )
        for name, each in found.extrapolated.items()
    ]
    header = (
        "backfill of",
        "trades",
        "requests",
        "hours",
        "MB on the wire",
        "MB at rest",
        "USD in the cloud",
    )
    for line in format_table(header, rows):
        click.echo(line)
    if not found.used.is_large:
        click.echo("Requests and hours are assumed: those of so few trades are mostly a run's beginning.")
    click.echo("MB at rest with models; `tape cost plan` shows every input, and what holding it costs.")


def poc_json(found: MonthBackfill) -> dict[str, Any]:
    """Plan and fact by the same names, and the extrapolation; dollars are decimal text."""
    plan = found.comparison and found.comparison.plan
    planned = plan and {
        "trades": plan.trades,
        "requests": plan.requests,
        "seconds": plan.seconds,
        "wire_bytes": plan.wire_bytes,
        "rest_bytes": plan.disk_bytes,
        "planned_at": plan.planned_at,
    }
    extrapolated = {
        name: {
            "trades": round(each.trades),
            "requests": round(each.requests),
            "hours": float(round(each.fetch_hours, 4)),
            "wire_bytes": round(each.wire_bytes),
            "rest_bytes": round(each.all_rest_bytes),
            "usd": str(each.usd["cloud, on demand"]),
        }
        for name, each in found.extrapolated.items()
    }
    return {"plan": planned, "fact": vars(found.used), "extrapolated": extrapolated}
