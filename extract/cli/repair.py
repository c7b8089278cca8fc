"""`tape repair`: fetch missing trades."""

from __future__ import annotations

import click

from extract.cli.options import scope_options
from extract.cli.output import echo


@click.command()
@click.option("--again", is_flag=True, help="Retry trades that were absent or unreadable last time.")
@scope_options
def repair(again: bool, currencies: tuple[str, ...], kinds: tuple[str, ...]) -> int:
    """Fetch missing trades, and nothing else.

    Trades that the exchange turns out not to have are recorded, and not requested again.

    Exit code: 0 nothing is missing any more except trades that the exchange does not have, 1 trades are still missing,
    4 the exchange or the database failed.

    Example: tape repair --currency BTC
    """
    from extract.cli.gaps import print_gaps
    from extract.cli.progress import WorkProgress
    from extract.coverage.gaps import Scope
    from extract.coverage.repair import repair_gaps

    with WorkProgress() as progress:
        report = repair_gaps(Scope.of(currencies, kinds), retry_absent=again, listener=progress)
    if not report.wanted:
        echo("There is nothing to fetch.")
    else:
        echo(
            f"{report.fetched:,} of {report.wanted:,} missing trades fetched in {report.seconds:.1f} s: "
            f"{report.ranges:,} ranges, {report.requests:,} requests."
        )
    if report.absent:
        echo(f"The exchange does not have {report.absent:,} of them: deribit_raw.absent_trades.")
    if report.rejected:
        echo(f"{report.rejected:,} could not be read: deribit_raw.rejected_trades.")
    if report.remaining:
        print_gaps(report.remaining)
    return int(bool(report.remaining))
