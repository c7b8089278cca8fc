"""`tape retention`: drop old months."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from extract.cli.options import json_option
from extract.cli.output import echo, print_json_lines, print_table
from extract.errors import UsageError

HEADER = ("level", "month", "rows", "bytes", "detail")


@click.command()
@click.option("--plan", "is_plan", is_flag=True, help="Show what would be dropped; drop nothing.")
@click.option("--apply", "is_apply", is_flag=True, help="Drop it.")
@click.option(
    "--level",
    "levels",
    metavar="L",
    multiple=True,
    help="ohlcv_1m, trades, ...; repeatable; raw_trades and book_summaries only if named here.",
)
@json_option
def retention(is_plan: bool, is_apply: bool, levels: tuple[str, ...], as_json: bool) -> int:
    """Drop months older than their retention period.

    The period of each level is in retention_months of dbt_project/dbt_project.yml; by default nothing is dropped. A
    month is dropped only if every candle made from it agrees with it in trades and volume. It is closed from then on:
    trades of that month that arrive later change no candle in it. Of the series besides trades, only book_summaries
    grows enough to be dropped; nobody can load it again.

    Exit code: 0 done, 1 a month was refused, 2 cannot tell, because the models are not built yet.

    Example: tape retention --plan
    """
    from extract.clickhouse.client import shared_database
    from extract.clickhouse.settings import clickhouse_settings
    from extract.retention.drop import drop_months, plan_drops
    from extract.retention.levels import declared_retention, read_levels

    if is_plan == is_apply:
        raise UsageError("Choose one of: tape retention --plan, or tape retention --apply.")
    all_levels = read_levels()
    if unknown := sorted(set(levels) - all_levels.keys()):
        raise UsageError(f"--level {unknown[0]!r} is unknown; the levels are {', '.join(all_levels)}.")
    run = drop_months if is_apply else plan_drops
    today = datetime.now(UTC).date()
    months = run(shared_database(clickhouse_settings()), declared_retention(), today, levels)
    verb = "dropped" if is_apply else "would be dropped"
    if as_json:
        print_json_lines(month.to_json() for month in months)
    elif not months:
        echo("Nothing is older than retention_months in dbt_project/dbt_project.yml.")
    else:
        rows = [
            (
                *(month.to_json()[name] for name in HEADER[:4]),
                f"stays: {month.refusal}" if month.refusal else verb,
            )
            for month in months
        ]
        print_table(HEADER, rows)
        dropped = [month for month in months if not month.refusal]
        size = sum(month.bytes for month in dropped)
        echo(f"{len(dropped):,} of {len(months):,} months {verb}: {size:,} bytes.")
    return int(any(month.refusal for month in months))
