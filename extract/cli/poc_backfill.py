"""`tape poc-backfill`: load one month and extrapolate its resource usage."""

from __future__ import annotations

from datetime import date

import click

from extract.cli.options import json_option, parsed, scope_options
from extract.cli.output import echo, print_json, print_table
from extract.cost.billing.money import usd
from extract.times import parse_month

HEADER = (
    *("backfill of", "trades", "requests", "hours", "MB on the wire", "MB at rest"),
    "USD in the cloud",
)
CLOUD = "cloud, on demand"


@click.command()
@click.option(
    "--month",
    required=True,
    callback=parsed(parse_month),
    metavar="YYYY-MM",
    help="A month that is over, UTC.",
)
@scope_options
@json_option
def poc_backfill(month: date, currencies: tuple[str, ...], kinds: tuple[str, ...], as_json: bool) -> None:
    """Load one month and extrapolate its resource usage.

    Shows the plan, what the month used, and what more history would use. It is an ordinary run: what it loads stays,
    and what is loaded already is not fetched again. `tape cost plan` uses its speed.

    Example: tape poc-backfill --month 2026-10 --currency BTC --kind option
    """
    from extract.cli.progress import RunProgress
    from extract.cli.run_summary import print_summary
    from extract.cost.measure.month_backfill import poc_backfill as run_month

    with RunProgress() as progress:
        result = run_month(month, currencies, kinds, progress)
    if as_json:
        plan = result.comparison and result.comparison.plan
        planned = plan and {
            **{name: getattr(plan, name) for name in ("trades", "requests", "seconds", "wire_bytes")},
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
                "usd": each.usd[CLOUD],
            }
            for name, each in result.extrapolated.items()
        }
        print_json({"plan": planned, "fact": result.used, "extrapolated": extrapolated})
        return
    print_summary(result.summary, result.comparison)
    if not result.extrapolated:
        echo(f"Nothing of {result.used.month} was left to fetch, so nothing can be extrapolated.")
        return
    seconds = f"{result.used.cpu_seconds:,.1f} processor seconds"
    echo(f"{seconds} of this process and its workers. At these figures for each trade:")
    rows = [
        (
            name,
            f"{each.trades:,.0f}",
            f"{each.requests:,.0f}",
            f"{each.fetch_hours:,.2f}",
            f"{each.wire_bytes / 10**6:,.1f}",
            f"{each.all_rest_bytes / 10**6:,.1f}",
            usd(each.usd[CLOUD]),
        )
        for name, each in result.extrapolated.items()
    ]
    print_table(HEADER, rows)
    if not result.used.is_large:
        echo("Requests and hours are assumed: with so few trades they are mostly start-up costs of a run.")
    echo("MB at rest with models; `tape cost plan` shows every input, and the cost of storage.")
