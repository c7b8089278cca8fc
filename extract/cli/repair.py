"""`tape repair`: fetch missing trades and rows of series."""

from __future__ import annotations

import click

from extract.cli.options import scope_options
from extract.cli.output import echo, plural


@click.command()
@click.option("--again", is_flag=True, help="Retry everything that was absent or unreadable last time.")
@scope_options
def repair(again: bool, currencies: tuple[str, ...], kinds: tuple[str, ...]) -> int:
    """Fetch missing trades and missing rows of series, and nothing else.

    Trades that the exchange turns out not to have are recorded, and requested again an hour, a day and a week later, by
    this command or by a run. An instrument or a series whose answers cannot be used is set aside: all others are fetched.

    Exit code: 0 nothing is missing any more except what the exchange does not have, 1 trades or rows are still missing,
    4 the exchange or the database failed, or an instrument or a series was set aside.

    Example: tape repair --currency BTC
    """
    from extract.cli.gaps import print_gaps, print_series_gaps
    from extract.cli.progress import WorkProgress
    from extract.coverage.gaps import Scope
    from extract.coverage.repair import repair_gaps
    from extract.coverage.session import require_none_set_aside

    with WorkProgress() as progress:
        report = repair_gaps(Scope.of(currencies, kinds), retry_absent=again, listener=progress)
    series = report.series
    if not report.wanted and not series.keys:
        echo("There is nothing to fetch.")
    if report.wanted:
        echo(
            f"{report.fetched:,} of {report.wanted:,} missing trades fetched in {report.seconds:.1f} s: "
            f"{report.ranges:,} ranges, {report.requests:,} requests."
        )
    if report.rechecked:
        echo(f"{report.rechecked:,} of them were absent before, and due to be requested again.")
    if report.absent:
        echo(f"The exchange does not have {report.absent:,} of them: deribit_raw.absent_trades.")
    if report.rejected:
        echo(f"{report.rejected:,} could not be read: deribit_raw.rejected_trades.")
    if series.keys:
        echo(
            f"{series.wanted:,} missing rows of {plural(series.keys, 'key')} of series were requested again: "
            f"{plural(series.fetched, 'row')} loaded."
        )
    if report.remaining:
        print_gaps(report.remaining)
    if series.remaining:
        print_series_gaps(series.remaining)
    require_none_set_aside(report.set_aside)
    for each in series.unproven:
        echo(str(each), err=True)
    return int(not report.is_complete)
