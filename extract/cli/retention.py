"""`tape retention`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from extract.retention.drop import Month

HEADER = ("level", "month", "rows", "bytes", "what")


@click.command()
@click.option("--plan", "is_plan", is_flag=True, help="Show what would go; drop nothing.")
@click.option("--apply", "is_apply", is_flag=True, help="Drop it.")
@click.option(
    "--level",
    "levels",
    metavar="L",
    multiple=True,
    help="ohlcv_1m, trades, ...; raw_trades only if named here.",
)
@click.option("--json", "as_json", is_flag=True, help="A list for machines.")
def retention(is_plan: bool, is_apply: bool, levels: tuple[str, ...], as_json: bool) -> int:
    """Drop the months that retention_months in dbt_project/dbt_project.yml does not keep; by default it keeps all.

    A month goes only if every candle made from it agrees with it in trades and volume. It is closed from then on: a
    trade that comes later than that changes no candle in it.

    Exit code: 0 done, 1 a month was refused, 2 cannot tell, since the models are not built yet.

    Example: tape retention --plan
    """
    from datetime import UTC, datetime

    from extract.clickhouse.client import shared_client
    from extract.clickhouse.settings import clickhouse_settings
    from extract.errors import UsageError
    from extract.retention import drop as library

    if is_plan == is_apply:
        raise UsageError("Say what to do: tape retention --plan, or tape retention --apply.")
    if unknown := sorted(set(levels) - set(library.LEVELS)):
        raise UsageError(f"--level {unknown[0]!r} is none; they are {', '.join(library.LEVELS)}.")
    run = library.apply if is_apply else library.plan
    keep = library.declared_keep()
    months = run(shared_client(clickhouse_settings()), keep, datetime.now(UTC).date(), levels)
    show(months, as_json=as_json, is_apply=is_apply)
    return int(any(month.refusal for month in months))


def show(months: list[Month], *, as_json: bool, is_apply: bool) -> None:
    """The table, and what it comes to in a sentence."""
    from extract.cli.gaps import json_lines
    from extract.cli.output import format_table

    if as_json:
        click.echo(json_lines([month.to_json() for month in months]))
        return
    if not months:
        click.echo("Nothing is older than retention_months in dbt_project/dbt_project.yml keeps.")
        return
    will = "dropped" if is_apply else "would go"
    facts = [month.to_json() for month in months]
    rows = (
        (
            each["level"],
            each["month"],
            each["rows"],
            each["bytes"],
            f"stays: {each['refusal']}" if each["refusal"] else will,
        )
        for each in facts
    )
    for line in format_table(HEADER, rows):
        click.echo(line)
    going = [month for month in months if not month.refusal]
    size = sum(month.bytes for month in going)
    click.echo(
        f"{len(going):,} of {len(months):,} months {'went' if is_apply else 'would go'}: {size:,} bytes."
    )
