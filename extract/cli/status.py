"""`tape status`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from extract.coverage.status import StreamStatus

HEADER = (
    *("currency", "kind", "trades", "instruments", "covered from", "covered to", "missing"),
    *("proven", "lag", "last load"),
)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="A list for machines; times are ISO 8601 in UTC.")
def status(as_json: bool) -> None:
    """Show, for each currency and kind, what is loaded, what of it is proven, and how old it is.

    Proven is the share of all trades asked for that are there, or that the exchange is known not to have. The
    exchange itself is not asked.

    Example: tape status --json
    """
    from extract.cli.output import format_table
    from extract.clickhouse.client import shared_client
    from extract.clickhouse.settings import clickhouse_settings
    from extract.coverage.status import status as status_of

    found = status_of(shared_client(clickhouse_settings()))
    if as_json:
        click.echo(json.dumps([each.to_json() for each in found], indent=1))
        return
    for line in format_table(HEADER, map(_cells, found)):
        click.echo(line)
    for each in found:
        for (_, end), (start, _) in zip(each.spans, each.spans[1:], strict=False):
            click.echo(f"Not covered of {each.stream}: {end:%Y-%m-%d %H:%M:%S} to {start:%Y-%m-%d %H:%M:%S}.")


def _cells(each: StreamStatus) -> tuple[str | int | None, ...]:
    return (
        *each.stream,
        each.trades,
        each.instruments,
        f"{each.spans[0][0]:%Y-%m-%d %H:%M:%S}",
        f"{each.spans[-1][1]:%Y-%m-%d %H:%M:%S}",
        each.missing,
        share(each.proven_share),
        duration(each.lag_seconds),
        f"{each.last_load_at:%Y-%m-%d %H:%M:%S}" if each.last_load_at else None,
    )


def share(value: float) -> str:
    """In per cent, never rounded up to whole: `99.999 %`."""
    return "100 %" if value == 1 else f"{int(value * 100_000) / 1_000:.3f} %"


def duration(seconds: int) -> str:
    """`45 s`, `3 min`, `2 h`, `5 d`, in the largest unit of which there are two."""
    for unit_s, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * unit_s:
            return f"{seconds // unit_s} {unit}"
    return f"{seconds} s"
