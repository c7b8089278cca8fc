"""`tape gaps` and `tape repair`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from extract.coverage.gaps import Gap
    from extract.coverage.repair import RepairReport

HEADER = ("instrument", "first", "last", "missing", "where", "why")


def scope_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--currency and --kind, each as often as wanted."""
    kind = click.option(
        "--kind", "kinds", metavar="K", multiple=True, help="option, future, spot, ...; default: all"
    )
    currency = click.option(
        "--currency", "currencies", metavar="C", multiple=True, help="BTC, ETH, ...; default: all"
    )
    return currency(kind(command))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="A list for machines.")
@click.option("--tails", is_flag=True, help="First ask for the last trade of expired instruments, once each.")
@scope_options
def gaps(as_json: bool, tails: bool, currencies: tuple[str, ...], kinds: tuple[str, ...]) -> int:
    """List what is missing, by instrument and range of trade_seq.

    An instrument's trades are numbered from 1 without holes: what is missing before the last one seen shows. What
    is missing behind it shows only with --tails, which is the one thing that the exchange is asked.

    Exit code: 0 nothing is missing but what the exchange is known not to have, 1 something is, 2 cannot tell.

    Example: tape gaps --currency BTC --kind option --tails
    """
    from extract.clickhouse.client import shared_client
    from extract.clickhouse.settings import clickhouse_settings
    from extract.coverage.gaps import Scope, find_gaps

    scope = Scope.of(currencies, kinds)
    if tails:
        from extract.coverage.tails import fetch_last_trades

        report = fetch_last_trades(scope)
        click.echo(tails_note(report.asked, report.unknown), err=True)
    found = find_gaps(shared_client(clickhouse_settings()), scope)
    if as_json:
        click.echo(json_lines([gap.to_json() for gap in found]))
    else:
        show(found)
    return int(any(not gap.known_absent for gap in found))


@click.command()
@click.option(
    "--again", is_flag=True, help="Also what the exchange had not, or sent unreadable, the last time."
)
@scope_options
def repair(again: bool, currencies: tuple[str, ...], kinds: tuple[str, ...]) -> int:
    """Fetch what is missing, and nothing else.

    What the exchange turns out not to have is remembered and not asked for again.

    Exit code: 0 nothing is missing any more but what the exchange has not, 1 something still is, 4 the exchange or
    the database failed.

    Example: tape repair --currency BTC
    """
    from extract.coverage.gaps import Scope
    from extract.coverage.repair import repair_gaps

    report = repair_gaps(Scope.of(currencies, kinds), again=again)
    for line in repair_notes(report):
        click.echo(line)
    if report.remaining:
        show(report.remaining)
    return int(bool(report.remaining))


def show(found: Sequence[Gap]) -> None:
    """The table, and what it comes to in a sentence."""
    from extract.cli.output import format_table

    if found:
        rows = (
            (gap.range.instrument_name, gap.range.first, gap.range.last, len(gap), gap.where, why(gap))
            for gap in found
        )
        for line in format_table(HEADER, rows):
            click.echo(line)
    click.echo(summary(found))


def why(gap: Gap) -> str:
    """Why a range is missing, as far as that is known."""
    if gap.known_absent:
        return "the exchange has it not"
    return "came unreadable: deribit_raw.rejected_trades" if gap.rejected else ""


def summary(found: Sequence[Gap]) -> str:
    """One sentence, with the command to try next."""
    absent = sum(len(gap) for gap in found if gap.known_absent)
    missing = sum(map(len, found)) - absent
    unreadable = all(gap.rejected for gap in found if not gap.known_absent)
    beside = f" beside {absent:,} that the exchange has not" if absent else ""
    if not missing:
        return f"Nothing is missing{beside}."
    names = len({gap.range.instrument_name for gap in found if not gap.known_absent})
    command = "`tape repair --again` asks for them once more" if unreadable else "`tape repair` fetches them"
    return f"{missing:,} trades of {names:,} instruments are missing{beside}; {command}."


def repair_notes(report: RepairReport) -> list[str]:
    """What was fetched and what was not, a sentence each."""
    if not report.wanted:
        return ["There is nothing to fetch."]
    notes = [
        f"{report.fetched:,} of {report.wanted:,} missing trades fetched in {report.seconds:.1f} s: "
        f"{report.ranges:,} ranges, {report.requests:,} requests."
    ]
    if report.absent:
        notes.append(f"{report.absent:,} the exchange has not: deribit_raw.absent_trades.")
    if report.rejected:
        notes.append(f"{report.rejected:,} could not be typed: deribit_raw.rejected_trades.")
    return notes


def tails_note(asked: int, unknown: int) -> str:
    """What --tails did."""
    note = f"{asked:,} expired instruments were asked for their last trade."
    return f"{note} {unknown:,} of them the history host does not know." if unknown else note


def json_lines(rows: Sequence[dict[str, Any]]) -> str:
    """A JSON list, one element a line."""
    return "[" + ",\n ".join(map(json.dumps, rows)) + "]"
