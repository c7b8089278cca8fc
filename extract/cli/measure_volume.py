"""`tape measure-volume`: count and measure one day of trades."""

from __future__ import annotations

from datetime import date

import click

from extract.cli.options import json_option, parsed, scope_options
from extract.cli.output import Cell, echo, print_json, print_table
from extract.times import parse_day

HEADER = (
    *("currency", "kind", "trades", "instruments", "missing", "requests"),
    *("wire bytes", "a trade", "bytes at rest", "a trade"),
)
FIGURES = ("trades", "instruments", "missing", "requests", "wire_bytes", "rest_bytes")


@click.command()
@click.option(
    "--day",
    callback=parsed(parse_day),
    metavar="DAY",
    help="A day that is over, UTC, like 2026-10-31; default: the last one.",
)
@scope_options
@json_option
def measure_volume(
    day: date | None, currencies: tuple[str, ...], kinds: tuple[str, ...], as_json: bool
) -> int:
    """Measure one day of trades: counts and bytes.

    By currency and kind, with bytes on the wire and at rest. Every trade of the day is fetched, inserted into a
    temporary table in ClickHouse, measured and dropped: nothing is loaded. `tape cost plan` uses the result.

    A trade_seq counts as missing if it was not received, but a lower and a higher one of the same day were.

    Exit code: 0 done, 1 trades are missing.

    Example: tape measure-volume --day 2026-10-31 --currency BTC
    """
    from extract.cli.progress import WorkProgress
    from extract.cost.measure.volume import measure_volume as measure

    with WorkProgress() as progress:
        volume = measure(day, currencies, kinds, progress)
    if as_json:
        streams = [
            {**each.stream._asdict(), **{name: getattr(each, name) for name in FIGURES}}
            for each in volume.streams
        ]
        print_json({"day": volume.day, "exchange": volume.exchange, "streams": streams})
    else:
        traded = [each for each in volume.streams if each.trades]
        rows = [_row(*each.stream, *(getattr(each, name) for name in FIGURES)) for each in traded]
        if len(rows) != 1:
            rows.append(_row("all", "", *map(volume.total, FIGURES)))
        print_table(HEADER, rows)
        echo(
            f"{volume.day}, UTC, of {volume.exchange}; nothing was loaded. `tape cost plan` uses these figures."
        )
    return int(volume.total("missing") > 0)


def _row(currency: str, kind: str, trades: int, *figures: int) -> tuple[Cell, ...]:
    *counts, wire, rest = figures
    wire_each, rest_each = (f"{size / trades:,.1f}" if trades else "-" for size in (wire, rest))
    return (currency, kind, trades, *counts, wire, wire_each, rest, rest_each)
