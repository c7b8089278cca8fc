"""`tape status`: coverage by currency and kind."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise

import click

from extract.cli.options import json_option
from extract.cli.output import echo, percent, print_json, print_table
from extract.times import duration

HEADER = (
    *("currency", "kind", "trades", "instruments", "covered from", "covered to", "missing"),
    *("proven", "lag", "last load"),
)


@click.command()
@json_option
def status(as_json: bool) -> None:
    """Show coverage, proven share and age by stream.

    A stream is a currency and kind. Proven is the share of all trades in covered time that are loaded, or that the
    exchange is known not to have. No request is sent to the exchange.

    Example: tape status --json
    """
    from extract.clickhouse.client import shared_database
    from extract.clickhouse.settings import clickhouse_settings
    from extract.coverage.status import fetch_status

    streams = fetch_status(shared_database(clickhouse_settings()))
    if as_json:
        print_json([each.to_json() for each in streams])
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
    for each in streams:
        for (_, end), (start, _) in pairwise(each.spans):
            echo(f"Not covered of {each.stream}: {_format(end)} to {_format(start)}.")


def _format(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}"
