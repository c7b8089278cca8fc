"""`tape status`: coverage by currency and kind."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import click

from extract.cli.options import json_option
from extract.cli.output import Cell, echo, percent, print_json, print_table
from extract.times import duration

if TYPE_CHECKING:
    from extract.coverage.status import StreamStatus

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
    print_table(HEADER, map(_row, streams))
    for each in streams:
        for (_, end), (start, _) in zip(each.spans, each.spans[1:], strict=False):
            echo(f"Not covered of {each.stream}: {_format(end)} to {_format(start)}.")


def _row(each: StreamStatus) -> tuple[Cell, ...]:
    return (
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


def _format(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}"
