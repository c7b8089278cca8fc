"""`tape cost`: bills and egress of the clouds, and cost estimates."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

import click

from extract.cli.options import Command, days_option, json_option, parsed, scope_options
from extract.cli.output import Cell, echo, print_json, print_table
from extract.cost.billing.money import UNKNOWN, split_cents, usd
from extract.errors import CannotTellError, UsageError
from extract.times import parse_day

if TYPE_CHECKING:
    from extract.cost.billing.charges import Days
    from extract.cost.plan.estimate import Backfill, Estimate, Holding, Increments
    from extract.cost.plan.plan import CostPlan

CLOUDS = ("clickhouse", "aws")
SETTINGS = ("local", "own host", "cloud, on demand", "cloud, always on")


def _parse_gb(text: str, option: str) -> Decimal:
    with suppress(InvalidOperation):
        gb = Decimal(text)
        if gb.is_finite() and gb >= 0:
            return gb
    raise UsageError(f"{option} {text!r} is not a number of GB; write it like 50 or 0.5.")


def _format_gb(gb: Decimal | None) -> str:
    return UNKNOWN if gb is None else f"{gb:,.3f}"


@click.group()
def cost() -> None:
    """Show charges and egress of the clouds, and estimate costs.

    Bills are read with CLICKHOUSE_CLOUD_ORGANIZATION_ID, CLICKHOUSE_CLOUD_API_KEY_ID and
    CLICKHOUSE_CLOUD_API_KEY_SECRET, and with AWS's own variables. What cannot be read is unknown, never 0.

    Example: tape cost baseline --days 30
    """


def bill_options(command: Command) -> Command:
    """--until, --cloud and --json."""
    until = click.option(
        "--until", callback=parsed(parse_day), metavar="DAY", help="Last day, included; default: yesterday."
    )
    cloud = click.option(
        "--cloud", "clouds", multiple=True, type=click.Choice(CLOUDS), help="One cloud only; default: both."
    )
    return until(cloud(json_option(command)))


@cost.command()
@days_option(30, 366, "Number of UTC days.")
@bill_options
@click.option(
    "--by-component",
    is_flag=True,
    help="Group AWS charges by their tag `component` (increment, backfill, …).",
)
@click.option("--project", is_flag=True, help="Count only AWS charges tagged project=deribit-tape.")
def baseline(
    days: int, until: date | None, clouds: tuple[str, ...], as_json: bool, by_component: bool, project: bool
) -> int:
    """Show what the last days cost in both clouds, by service and kind of charge.

    Each request to AWS Cost Explorer is itself charged, with 0.01 USD; the number of requests is shown.

    Exit code: 0 all bills were read, 2 the bill of a cloud is unknown.

    Example: tape cost baseline --days 31 --until 2026-10-31
    """
    from extract.cost.billing.baseline import baseline as fetch_baseline

    today = datetime.now(UTC).date()
    bill = fetch_baseline(
        _days(days, until, today), clouds or CLOUDS, by_component=by_component, project=project
    )
    if as_json:
        print_json(
            {
                "first_day": bill.days.first,
                "last_day": bill.days.last,
                "total_usd": bill.total,
                "clouds": {cloud: bill.total_of(cloud) for cloud in (*bill.read, *bill.unread)},
                "lines": bill.lines,
                "cost_explorer_requests": bill.requests,
                "notes": bill.notes(today),
            }
        )
    else:
        echo(f"{bill.days}: {len(bill.days)} days, UTC")
        rows: list[tuple[Cell, ...]] = []
        for cloud in (*bill.read, *bill.unread):
            lines = [] if cloud in bill.unread else bill.lines_in_cents(cloud)
            rows += [
                (line.cloud, line.service, line.kind, usd(cents), usd(line.open_usd)) for line, cents in lines
            ]
            open_usd = usd(sum((line.open_usd for line, _ in lines), Decimal(0)))
            total = usd(bill.total_of(cloud))
            rows.append((cloud, "", "all of it", total, UNKNOWN if cloud in bill.unread else open_usd))
        if len(bill.read) + len(bill.unread) > 1:
            open_usd = UNKNOWN if bill.unread else usd(bill.open_usd)
            rows.append(("both", "", "all of it", usd(bill.total), open_usd))
        print_table(("cloud", "service", "charge", "USD", "may still change"), rows)
        for note in bill.notes(today):
            echo(note)
    return CannotTellError.exit_code if bill.unread else 0


@cost.command()
@click.option(
    "--threshold",
    required=True,
    callback=parsed(_parse_gb),
    metavar="GB",
    help="Alarm above this number of GB (10^9 bytes).",
)
@days_option(7, 366, "Number of UTC days.")
@bill_options
def egress(threshold: Decimal, days: int, until: date | None, clouds: tuple[str, ...], as_json: bool) -> int:
    """Compare the data that left the clouds with a threshold.

    ClickHouse Cloud is measured by its charges for the internet and other regions, AWS by NetworkOut of its instances.

    Exit code: 0 at or below the threshold, 1 above it, 2 below it as far as it could be read.

    Example: tape cost egress --threshold 50 --days 7
    """
    from extract.cost.billing.egress import egress as fetch_egress

    usage = fetch_egress(_days(days, until, datetime.now(UTC).date()), threshold, clouds or CLOUDS)
    if as_json:
        print_json(
            {
                "first_day": usage.days.first,
                "last_day": usage.days.last,
                "gb": usage.gb,
                "known_gb": usage.known_gb,
                "threshold_gb": usage.threshold_gb,
                "is_over": usage.is_over,
                "notes": [*usage.notes, *usage.unread],
            }
        )
    else:
        echo(f"{usage.days}: {len(usage.days)} days, UTC")
        rows = [(source, _format_gb(gb)) for source, gb in usage.gb.items()]
        print_table(("source", "GB"), [*rows, ("all that is known", _format_gb(usage.known_gb))])
        for note in (*usage.notes, *usage.unread):
            echo(note)
        verdict = (
            "above" if usage.is_over else "not above, as far as is known," if usage.unread else "not above"
        )
        echo(f"{_format_gb(usage.known_gb)} GB: {verdict} the threshold of {usage.threshold_gb} GB.")
    return usage.exit_code


@cost.command()
@click.option("--since", metavar="T", help="Sample the exchange for trades missing since T: 2025-01-31, 30d.")
@click.option("--until", metavar="T", help="Up to this time; default: now.")
@scope_options
@click.option(
    "--scope",
    type=click.Choice(["btc-options", "everything"]),
    help="Use known volumes; no request is sent to the exchange.",
)
@click.option(
    "--trades",
    type=click.IntRange(1, 10**15),
    metavar="N",
    help="Use this number of trades; no request is sent either.",
)
@click.option(
    "--assume", is_flag=True, help="With --scope or --trades: use assumptions only, not this database."
)
@click.option(
    "--set", "given", metavar="NAME=VALUE", multiple=True, help="Replace the value of an input; repeatable."
)
@json_option
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
) -> None:
    """Show what a backfill, its storage, and a month of increments will take and cost.

    Without --scope and --trades the exchange is sampled, with at most 12 probes for each currency and kind. Figures of
    this database and of earlier runs are measured; the rest is assumed; each figure shows which. Nothing is loaded.
    Components of AWS are the values of the tag `component`, as `tape cost baseline --by-component` shows them; metrics
    have no tag.

    Example: tape cost plan --scope btc-options --set idle_minutes=5
    """
    from extract.cost.plan.plan import cost_plan
    from extract.source.options import RunOptions

    if (scope or trades) and (since or until or currencies or kinds):
        raise UsageError(
            "--scope and --trades send no request to the exchange: leave out --since, --until, --currency and --kind."
        )
    if assume and not (scope or trades):
        raise UsageError(
            "--assume sends no request to the exchange: name the volume with --scope or --trades."
        )
    options = None if scope or trades else RunOptions(since, until, currencies, kinds)
    result = cost_plan(options, scope=scope, trades=trades, given=given, assume=assume)
    if as_json:
        details = {"inputs": result.inputs.used(), "notes": result.notes}
        print_json(vars(result.estimate) | details)
    else:
        _print_plan(result)


def _days(days: int, until: date | None, today: date) -> Days:
    from extract.cost.billing.charges import Days

    last = until or today - timedelta(1)
    if last > today:
        raise UsageError(f"--until {last} is in the future; today is {today} in UTC.")
    return Days(last - timedelta(days - 1), last)


def _print_plan(result: CostPlan) -> None:
    _print_backfill(result.estimate)
    _print_increments(result.estimate.increments)
    echo()
    for setting in SETTINGS[2:]:
        _print_components(result.estimate, setting)
    echo("Inputs, each of which --set NAME=VALUE changes:")
    rows = [(each.name, number(each.value), each.unit, each.source) for each in result.inputs.used()]
    print_table(("input", "value", "unit", "where from"), rows)
    for note in result.notes:
        echo(note)


def _print_backfill(estimate: Estimate) -> None:
    """Print quantities of the backfill, its dollars and those of its storage."""
    backfill, holding = estimate.backfill, estimate.holding.usd
    quantities = [
        ("trades", f"{backfill.trades:,.0f}"),
        ("requests", f"{backfill.requests:,.0f}"),
        ("requests for series", f"{backfill.series_requests:,.0f}"),
        ("hours at the rate limit", f"{backfill.hours_at_rate_limit:,.3f}"),
        ("hours to fetch", f"{backfill.fetch_hours:,.3f}"),
        ("MB over the wire", f"{backfill.wire_bytes / 10**6:,.1f}"),
        ("MB at rest, compressed", f"{backfill.all_rest_bytes / 10**6:,.1f}"),
        *((f"  {table}", f"{size / 10**6:,.1f}") for table, size in backfill.rest_bytes.items()),
        ("  series besides trades", f"{backfill.series_bytes / 10**6:,.1f}"),
        ("compute hours of ClickHouse", f"{backfill.compute_unit_hours:,.3f}"),
        ("hours that it is awake", f"{backfill.awake_hours:,.3f}"),
    ]
    print_table(("backfill", "figure"), quantities)
    echo()
    rows = [(name, usd(backfill.usd[name]), usd(holding[name])) for name in SETTINGS]
    print_table(("USD", "backfill, once", "holding, a month"), rows)
    echo()
    if None in holding.values():
        echo(f"{UNKNOWN}: it does not fit the disk of the own host (host_disk_gb).")


def _print_increments(increments: list[Increments]) -> None:
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
        for each in increments
    ]
    columns = (
        "runs",
        "trades",
        "requests",
        "GB on the wire",
        "hours awake",
        "Lambda",
        *SETTINGS[1:],
        "saved",
    )
    print_table(("a month of increments", *columns), rows)
    echo()
    echo("USD a month, with holding; saved: on demand against always on. Local is your own machine: 0.00.")


def _print_components(estimate: Estimate, setting: str) -> None:
    """Print what each component costs, in cents that add up to the totals of the other tables."""
    from extract.cost.plan.estimate import COMPONENTS

    parts: list[Backfill | Holding | Increments] = [estimate.backfill, estimate.holding, *estimate.increments]
    costs = [part.components[setting] or {} for part in parts]
    rows = [name for name in COMPONENTS if any(name in each for each in costs)]
    columns = [
        [usd(cents) for cents in split_cents([each.get(name, Decimal(0)) for name in rows])] for each in costs
    ]
    totals = [usd(part.usd[setting]) for part in parts]
    cadences = [f"every {each.every}" for each in estimate.increments]
    header = (f"USD by component, {setting}", "backfill, once", "holding, a month", *cadences)
    print_table(header, [*zip(rows, *columns, strict=True), ("total", *totals)])
    echo()


def number(value: Decimal) -> str:
    """Format without an exponent, with thousands separators, without trailing zeros."""
    return f"{value.normalize():,f}"
