"""`tape measure-volume`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from extract.cli.gaps import scope_options

if TYPE_CHECKING:
    from extract.cost.measure.volume import StreamVolume, Volume

HEADER = (
    "currency",
    "kind",
    "trades",
    "instruments",
    "missing",
    "requests",
    "wire bytes",
    "a trade",
    "bytes at rest",
    "a trade",
)
FIGURES = ("trades", "instruments", "missing", "requests", "wire_bytes", "rest_bytes")


@click.command()
@click.option("--day", metavar="DAY", help="A day in UTC that is over, 2026-10-31; default: the last one.")
@scope_options
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def measure_volume(
    day: str | None, currencies: tuple[str, ...], kinds: tuple[str, ...], as_json: bool
) -> int:
    """Count one day of trades by currency and kind, and weigh them on the wire and at rest.

    Every trade of the day is fetched, weighed in a table of its own in ClickHouse, and dropped: nothing is loaded.
    `tape cost plan` uses what came of it. Missing are trade_seq between two of the day that did not come.

    Exit code: 0 done, 1 trades are missing.

    Example: tape measure-volume --day 2026-10-31 --currency BTC
    """
    from extract.cost.measure.volume import measure_volume as measure

    found = measure(day, currencies, kinds)
    if as_json:
        click.echo(json.dumps(volume_json(found), indent=1))
    else:
        show(found)
    return int(found.total("missing") > 0)


def show(found: Volume) -> None:
    """A row for each currency and kind that traded, and all of them together."""
    from extract.cli.output import format_table

    rows = [_row(*each.stream, each) for each in found.streams if each.trades]
    if len(rows) != 1:
        rows.append(_row("all", "", found))
    for line in format_table(HEADER, rows):
        click.echo(line)
    click.echo(f"{found.day}, UTC, of {found.exchange}; nothing was loaded. `tape cost plan` goes by it.")


def _row(currency: str, kind: str, of: StreamVolume | Volume) -> tuple[str | int, ...]:
    from extract.cost.measure.volume import Volume

    figures = [of.total(name) if isinstance(of, Volume) else getattr(of, name) for name in FIGURES]
    trades, *counts, wire, rest = figures
    each = [f"{size / trades:,.1f}" if trades else "-" for size in (wire, rest)]
    return (currency, kind, trades, *counts, wire, each[0], rest, each[1])


def volume_json(found: Volume) -> dict[str, object]:
    """The day, and a list of the streams' figures."""
    streams = [
        {
            "currency": each.stream.currency,
            "kind": each.stream.kind,
            **{name: getattr(each, name) for name in FIGURES},
        }
        for each in found.streams
    ]
    return {"day": str(found.day), "exchange": found.exchange, "streams": streams}
