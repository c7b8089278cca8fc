"""`tape status`: coverage by currency and kind, and of each series."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING

import click

from extract.cli.options import json_option
from extract.cli.output import echo, percent, print_json, print_table
from extract.times import duration

if TYPE_CHECKING:
    from extract.coverage.series import SeriesStatus

HEADER = (
    *("currency", "kind", "trades", "instruments", "covered from", "covered to", "missing"),
    *("proven", "lag", "last load"),
)

SERIES_HEADER = (
    *("series", "key", "rows", "covered from", "covered to", "missing", "absent", "proven", "lag"),
    *("last load", "disagreement"),
)


@click.command()
@json_option
def status(as_json: bool) -> None:
    """Show coverage, proven share and age by stream.

    A stream is a currency and kind. Proven is the share of all trades in covered time that are loaded, or that the
    exchange is known not to have. A second table has the series besides trades by key, such as the funding rates of a
    perpetual. No request is sent to the exchange.

    Example: tape status --json
    """
    from extract.clickhouse.client import shared_database
    from extract.clickhouse.finished import describe_unfinished, unfinished_loads
    from extract.clickhouse.settings import clickhouse_settings
    from extract.coverage.series import fetch_series_status
    from extract.coverage.status import fetch_status

    database = shared_database(clickhouse_settings())
    streams = fetch_status(database)
    series = fetch_series_status(database)
    if unfinished := unfinished_loads(database):
        echo(describe_unfinished(unfinished), err=True)
    if as_json:
        print_json([*(each.to_json() for each in streams), *(each.to_json() for each in series)])
        return
    rows = [
        (
            *each.stream,
            each.trades,
            each.instruments,
            _format(each.spans[0][0]),
            _format(each.spans[-1][1]),
            each.missing,
            percent(each.proven_share),
            duration(each.lag_seconds),
            _format(each.last_load_at) if each.last_load_at else None,
        )
        for each in streams
    ]
    print_table(HEADER, rows)
    if series:
        echo()
        print_series(series)
    if provisional := sum(each.provisional for each in streams):
        echo(f"{provisional:,} trades are absent provisionally: `tape gaps` lists them.")
    for each in streams:
        for (_, end), (start, _) in pairwise(each.spans):
            echo(f"Not covered of {each.stream}: {_format(end)} to {_format(start)}.")


def print_series(series: Sequence[SeriesStatus]) -> None:
    """Print the status of each key of the series as a table."""
    rows = [
        (
            each.stream.series,
            each.stream.key,
            each.rows,
            _format(each.covered_from),
            _format(each.covered_to),
            each.missing,
            each.absent,
            percent(each.proven_share),
            duration(each.lag_seconds),
            _format(each.last_load_at),
            each.disagreement,
        )
        for each in series
    ]
    print_table(SERIES_HEADER, rows)


def _format(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}"
