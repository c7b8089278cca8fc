"""`tape gaps`: list missing trades."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from typing import TYPE_CHECKING

import click

from extract.cli.options import json_option, scope_options
from extract.cli.output import describe_set_aside, echo, print_json_lines, print_table
from extract.errors import OutsideError

if TYPE_CHECKING:
    from extract.coverage.gaps import Gap
    from extract.coverage.tails import TailsReport

HEADER = ("instrument", "first", "last", "missing", "where", "reason")


@click.command()
@json_option
@click.option("--tails", is_flag=True, help="First fetch the last trade of expired instruments, once each.")
@scope_options
def gaps(as_json: bool, tails: bool, currencies: tuple[str, ...], kinds: tuple[str, ...]) -> int:
    """List missing trades, by instrument and range of trade_seq.

    The trades of an instrument are numbered from 1 without holes, so every missing trade before the last loaded one
    is known. Missing trades after it are known only with --tails, the one option that sends requests to the exchange.

    Exit code: 0 nothing is missing except trades that the exchange is known not to have, 1 trades are missing,
    2 cannot tell, 4 the exchange or the database failed, or the last trade of an instrument cannot be used.

    Example: tape gaps --currency BTC --kind option --tails
    """
    from extract.clickhouse.client import shared_database
    from extract.clickhouse.settings import clickhouse_settings
    from extract.coverage.gaps import Scope, find_gaps

    scope = Scope.of(currencies, kinds)
    report: TailsReport | None = None
    if tails:
        from extract.cli.progress import WorkProgress
        from extract.coverage.tails import fetch_last_trades

        with WorkProgress() as progress:
            report = fetch_last_trades(scope, progress)
        note = f"Requested the last trade of {report.requested:,} expired instruments."
        if report.unknown:
            note += f" The history host does not know {report.unknown:,} of them."
        echo(note, err=True)
    missing = find_gaps(shared_database(clickhouse_settings()), scope)
    if as_json:
        print_json_lines(gap.to_json() for gap in missing)
    else:
        print_gaps(missing)
    if report and report.set_aside:
        for sentence in describe_set_aside(report.set_aside):
            echo(sentence, err=True)
        return OutsideError.exit_code
    return int(any(not gap.known_absent for gap in missing))


def print_gaps(gaps: Sequence[Gap]) -> None:
    """Print gaps as a table, and a sentence with the command to run next."""
    if gaps:
        rows = [(*astuple(gap.range), len(gap), gap.where, _reason(gap)) for gap in gaps]
        print_table(HEADER, rows)
    missing = [gap for gap in gaps if not gap.known_absent]
    absent = sum(len(gap) for gap in gaps if gap.known_absent)
    exception = f", apart from {absent:,} that the exchange does not have" if absent else ""
    if not missing:
        echo(f"Nothing is missing{exception}.")
        return
    names = len({gap.range.instrument_name for gap in missing})
    is_unreadable = all(gap.rejected for gap in missing)
    command = "`tape repair --again` retries them" if is_unreadable else "`tape repair` fetches them"
    echo(f"{sum(map(len, missing)):,} trades of {names:,} instruments are missing{exception}; {command}.")


def _reason(gap: Gap) -> str:
    if gap.known_absent:
        return "absent from the exchange"
    return "unreadable: deribit_raw.rejected_trades" if gap.rejected else ""
