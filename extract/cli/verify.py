"""`tape verify`: compare candles with the exchange's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from extract.cli.options import json_option
from extract.cli.output import echo, plural, print_json, print_table
from extract.times import iso

if TYPE_CHECKING:
    from extract.verify.verify import VerifyReport

HEADER = ("instrument", "level", "bar", "difference", "detail")
_AGREEMENT = {
    "whole": "The exchange's candles are of the whole tape, with block trades and combo legs",
    "book": "The exchange's candles are of the order book alone (book_* columns), without block trades and combo legs",
    "mixed": "The exchange's candles agree with either kind in some bars",
}


@click.command()
@click.option("--since", metavar="T", help="Compare bars from this time: 2026-01-31 or 7d; default: all.")
@click.option(
    "--instrument", "instruments", metavar="NAME", multiple=True, help="Instrument; repeatable; default: all."
)
@click.option(
    "--sample",
    metavar="N",
    default=100,
    type=click.IntRange(1, 1_000_000),
    help="Most charts to compare; each is one request. Differences take at most as many further requests.",
)
@json_option
def verify(since: str | None, instruments: tuple[str, ...], sample: int, as_json: bool) -> int:
    """Compare candles with the exchange's own, bar by bar.

    A second proof of completeness, which does not depend on trade_seq. A chart is a day of 1m candles, 180 days of 1h, or
    all 1d candles of an instrument; those that were never compared come first, so that repeated calls compare all of them.
    Each difference is explained and stored in deribit.candle_checks: block trades or combo legs that the exchange leaves
    out, bars without trades, rounding, trades that the exchange has restated, trades that are missing here, unexplained.

    Exit code: 0 no trade is missing and every difference is explained, 1 trades are missing or a difference is
    unexplained, 2 cannot tell: nothing is loaded, or the models are not up to date, 4 the exchange or the database failed,
    or a chart was set aside.

    Example: tape verify --instrument BTC-PERPETUAL --since 7d
    """
    from extract.cli.progress import WorkProgress
    from extract.errors import OutsideError
    from extract.verify.verify import verify_candles

    with WorkProgress() as progress:
        report = verify_candles(since=since, names=instruments, most_charts=sample, listener=progress)
    if as_json:
        print_json(report.to_json())
    else:
        print_report(report)
    if report.failures:
        return 1
    if report.set_aside:
        (name, error), *others = report.set_aside.items()
        also = f" ({len(others):,} more were set aside as well)" if others else ""
        raise OutsideError(
            f"{name} was set aside: {str(error).rstrip('.')}{also}. A later run of the same command tries again."
        )
    return 0


def print_report(report: VerifyReport) -> None:
    """Print the differences that matter, and figures of the others."""
    from extract.verify.classify import Classification

    shown = [
        each
        for each in report.differences
        if each.classification
        in (Classification.MISSING, Classification.UNEXPLAINED, Classification.RESTATED)
    ]
    if shown:
        rows = [
            (each.instrument_name, each.level, iso(each.first_ms), each.classification.value, each.detail)
            for each in shown
        ]
        print_table(HEADER, rows)
    counts = report.counts
    echo(
        f"{plural(report.bars, 'bar')} of {plural(report.charts, 'chart')} compared in {report.seconds:.1f} s with "
        f"{plural(report.requests, 'request')}: {report.equal:,} equal, "
        f"{counts[Classification.NO_TRADES]:,} without trades, {counts[Classification.ROUNDING]:,} rounded, "
        f"{counts[Classification.BLOCK_OR_COMBO]:,} without block trades or combo legs, "
        f"{counts[Classification.RESTATED]:,} restated, {counts[Classification.MISSING]:,} with trades missing here, "
        f"{counts[Classification.UNEXPLAINED]:,} unexplained."
    )
    if kind := report.agreement.candles:
        agreement = report.agreement
        echo(
            f"{_AGREEMENT[kind]}: of bars with such trades, {agreement.whole:,} agree with the whole tape, "
            f"{agreement.book:,} with the order book, {agreement.neither:,} with neither."
        )
    if counts[Classification.MISSING]:
        echo("`tape gaps` lists missing trades, `dlt pipeline run --again --since T` loads late ones.")
