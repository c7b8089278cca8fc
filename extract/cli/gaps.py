"""`tape gaps`: list missing trades and rows of series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from typing import TYPE_CHECKING

import click

from extract.cli.options import json_option, scope_options
from extract.cli.output import echo, plural, print_json_lines, print_table
from extract.times import iso

if TYPE_CHECKING:
    from extract.coverage.gaps import Gap
    from extract.coverage.series import SeriesRowsGap
    from extract.coverage.tails import TailsReport

HEADER = ("instrument", "first", "last", "missing", "where", "reason")
SERIES_HEADER = ("series", "key", "first", "last", "missing", "reason")


@click.command()
@json_option
@click.option(
    "--tails",
    is_flag=True,
    help="First fetch the last trade of expired instruments: once each, and again a day later.",
)
@scope_options
def gaps(as_json: bool, tails: bool, currencies: tuple[str, ...], kinds: tuple[str, ...]) -> int:
    """List missing trades, by instrument and range of trade_seq, and missing rows of series, by key and time.

    The trades of an instrument are numbered from 1 without holes, so every missing trade before the last loaded one
    is known. Missing trades after it are known only with --tails, the one option that sends requests to the exchange.

    A trade that the exchange did not have when it was requested by number is absent. That is provisional until it was
    requested again an hour or more later: by a run or `tape repair`, when it is due. A row of a series is absent once it was
    requested again a day later, and a delivery where the delivery price of its index is loaded.

    Exit code: 0 nothing is missing except what the exchange is known not to have, 1 trades or rows of series are missing,
    time of a stream or a series that a run set aside is not proven, or trades are rejected because others have their number
    or because their record has none, or ClickHouse has detached parts of the raw tables,
    2 cannot tell: nothing is loaded yet, or nothing is missing except absent trades of which some are provisional,
    4 the exchange or the database failed, or the last trade of an instrument cannot be used.

    Example: tape gaps --currency BTC --kind option --tails
    """
    from extract.clickhouse.client import shared_database
    from extract.clickhouse.finished import describe_unfinished, unfinished_loads
    from extract.clickhouse.settings import clickhouse_settings
    from extract.coverage.gaps import (
        Scope,
        find_contradictions,
        find_detached,
        find_gaps,
        find_unnumbered,
        find_unproven,
    )
    from extract.coverage.series import find_series_gaps, find_unproven_series
    from extract.errors import CannotTellError

    scope = Scope.of(currencies, kinds)
    report: TailsReport | None = None
    if tails:
        from extract.cli.progress import WorkProgress
        from extract.coverage.session import require_none_set_aside
        from extract.coverage.tails import fetch_last_trades

        with WorkProgress() as progress:
            report = fetch_last_trades(scope, progress)
        note = f"Requested the last trade of {report.requested:,} expired instruments."
        if report.requested:
            note += " A last trade is settled once it was sent twice, a day or more apart."
        if report.unknown:
            note += f" The history host does not know {report.unknown:,} of them."
        echo(note, err=True)
    database = shared_database(clickhouse_settings())
    unproven = [
        *find_unproven(database, scope),
        *find_contradictions(database, scope),
        *find_unnumbered(database, scope),
        *find_unproven_series(database, scope),
        *find_detached(database),
    ]
    for each in unproven:  # also where nothing is covered
        echo(str(each), err=True)
    missing = find_gaps(database, scope)
    of_series = find_series_gaps(database, scope)
    is_series_complete = all(gap.known_absent for gap in of_series)
    if unfinished := unfinished_loads(database):
        echo(describe_unfinished(unfinished), err=True)
    provisional = describe_provisional(missing)
    if as_json:
        print_json_lines([*(gap.to_json() for gap in missing), *(gap.to_json() for gap in of_series)])
        if provisional:
            echo(provisional, err=True)
    else:
        print_gaps(missing, is_proven=not unproven and is_series_complete)
        print_series_gaps(of_series)
    if report:
        require_none_set_aside(report.set_aside)
    if unproven or not is_series_complete or any(not gap.known_absent for gap in missing):
        return 1
    return CannotTellError.exit_code if provisional else 0


def print_gaps(gaps: Sequence[Gap], *, is_proven: bool = True) -> None:
    """Print gaps as a table, and a sentence with the command to run next, unless there is time that is not proven."""
    if gaps:
        rows = [(*astuple(gap.range), len(gap), gap.where, _reason(gap)) for gap in gaps]
        print_table(HEADER, rows)
    missing = [gap for gap in gaps if not gap.known_absent]
    absent = sum(len(gap) for gap in gaps if gap.known_absent)
    exception = f", apart from {absent:,} that the exchange does not have" if absent else ""
    if not missing and not is_proven:
        return
    if not missing:
        echo(describe_provisional(gaps) or f"Nothing is missing{exception}.")
        return
    names = len({gap.range.instrument_name for gap in missing})
    is_unreadable = all(gap.rejected for gap in missing)
    command = "`tape repair --again` retries them" if is_unreadable else "`tape repair` fetches them"
    echo(f"{sum(map(len, missing)):,} trades of {names:,} instruments are missing{exception}; {command}.")


def print_series_gaps(gaps: Sequence[SeriesRowsGap]) -> None:
    """Print missing rows of series as a table, and a sentence with the command to run next."""
    if not gaps:
        return
    rows = [
        (
            gap.stream.series,
            gap.stream.key,
            iso(gap.first_ms),
            iso(gap.last_ms),
            gap.missing,
            "absent from the exchange" * gap.known_absent or gap.detail,
        )
        for gap in gaps
    ]
    print_table(SERIES_HEADER, rows)
    missing = [gap for gap in gaps if not gap.known_absent]
    absent = sum(gap.missing for gap in gaps if gap.known_absent)
    if missing:
        keys = plural(len({gap.stream for gap in missing}), "key")
        exception = f", apart from {absent:,} that the exchange does not have" if absent else ""
        rows_missing = plural(sum(gap.missing for gap in missing), "row")
        echo(f"{rows_missing} of {keys} of series missing{exception}; `tape repair` requests them again.")


def describe_provisional(gaps: Sequence[Gap]) -> str | None:
    """A sentence about absent trades that have to be requested again; None where there are none."""
    provisional = [gap for gap in gaps if gap.provisional]
    if not provisional:
        return None
    when = "now: `tape repair`" if any(gap.due for gap in provisional) else "an hour after the first request"
    return (
        f"Cannot tell yet: {sum(map(len, provisional)):,} trades that the exchange did not have are requested again "
        f"before they count as absent, {when}."
    )


def _reason(gap: Gap) -> str:
    if gap.known_absent:
        return "absent so far" if gap.provisional else "absent from the exchange"
    return "unreadable: deribit_raw.rejected_trades" if gap.rejected else ""
