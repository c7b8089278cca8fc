"""`tape export`: write trades, candles and series to Parquet or CSV files, and prove them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from extract.cli.options import Command, json_option, parsed
from extract.cli.output import echo, plural, print_json, print_table
from extract.errors import UsageError
from extract.times import END_MS, parse_time_ms

if TYPE_CHECKING:
    from extract.export.export import ExportReport
    from extract.export.verify import VerifyReport

MOST_PROBLEMS = 20
_LOAD_ID = re.compile(r"\d{10}(\.\d{1,9})?")


def _parse_time(text: str, option: str) -> int:
    return parse_time_ms(text, option, round(time.time() * 1000))


def _parse_change(text: str, option: str) -> int:
    """Microseconds since 1970 of a time or of a load package's id."""
    return round(float(text) * 1_000_000) if _LOAD_ID.fullmatch(text) else _parse_time(text, option) * 1000


def _names(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Names of an option that is repeated, or separated by commas."""
    return tuple(name.strip() for text in value for name in text.split(",") if name.strip())


def _names_option(*names: str, metavar: str, help: str) -> Callable[[Command], Command]:
    return click.option(*names, metavar=metavar, multiple=True, callback=_names, help=help)


@click.command()
@click.argument("place", metavar="FOLDER|s3://BUCKET/PREFIX")
@click.option(
    "--format",
    type=click.Choice(["parquet", "csv", "tardis"]),
    default="parquet",
    help="Files to write; tardis: trades as CSV in the columns of tardis.dev, one file per day and symbol.",
)
@_names_option(
    "--tables",
    metavar="NAMES",
    help="trades, candles_1m to candles_1mo, funding_1h, delivery_prices, settlements, volatility_index_1h, "
    "open_interest_1d, instruments, or raw for all raw tables; default: all but raw.",
)
@_names_option(
    "--currency", "--currencies", "currencies", metavar="NAMES", help="BTC,ETH, ...; default: all."
)
@_names_option("--kind", "--kinds", "kinds", metavar="NAMES", help="option,future,spot, ...; default: all.")
@click.option(
    "--since",
    metavar="T",
    callback=parsed(_parse_time),
    help="First time: 2025-01-31, 2025-01-31T08:00Z or 7d.",
)
@click.option("--until", metavar="T", callback=parsed(_parse_time), help="Time after the last row, likewise.")
@click.option(
    "--changed-since",
    metavar="T",
    callback=parsed(_parse_change),
    help="Look only for what changed since a time or a load package's id; other files of the export stay.",
)
@click.option(
    "--verify", is_flag=True, help="Write nothing; prove the files of an export, without a database."
)
@json_option
def export(
    place: str,
    format: str,
    tables: tuple[str, ...],
    currencies: tuple[str, ...],
    kinds: tuple[str, ...],
    since: int | None,
    until: int | None,
    changed_since: int | None,
    verify: bool,
    as_json: bool,
) -> int:
    """Write trades, candles and series to Parquet or CSV files, with a manifest that proves them.

    A file has the rows of one kind, underlying and month, sorted by instrument and number or time. The same command again
    writes only the files whose rows have changed, and continues an export that was interrupted. manifest.json comes last; it
    has the rows and the SHA-256 of each file, the load packages and the coverage. trade_seqs has the numbers of the
    trades in each file, and trade_gaps every number that is missing between them, with the reason. Load packages that
    are not finished are not exported.

    --verify reads the files again: each is there as it was written, no other file is there, and no trade is missing that
    is not named.

    Exit code: 0 done or proven, 1 a file differs from the manifest or a trade is missing without a name, 2 cannot tell:
    nothing is loaded, the models are not up to date, or the export is not finished, 3 a mistake in the command, 4 the
    database, the disk or S3 failed; the next export resumes.

    Example: tape export lake --tables trades,candles_1h --currencies BTC --since 2025-01-01
    """
    if verify:
        return _verify(place, as_json)
    from extract.cli.progress import WorkProgress
    from extract.clickhouse.client import shared_database
    from extract.clickhouse.settings import clickhouse_settings
    from extract.export.export import ExportOptions
    from extract.export.export import export as export_all
    from extract.export.parts import Filter
    from extract.export.store import open_store

    filters = Filter(
        tuple(name.upper() for name in currencies), kinds, since or 0, END_MS if until is None else until
    )
    if filters.since_ms >= filters.until_ms:
        raise UsageError("--since is not before --until; nothing would be exported.")
    options = ExportOptions(format, tables, filters, changed_since)
    database = shared_database(clickhouse_settings())
    with open_store(place, is_new=True) as store, WorkProgress() as progress:
        report = export_all(database, store, options, listener=progress)
    if as_json:
        print_json(report.to_json())
    else:
        _show(report)
    return 0


def _show(report: ExportReport) -> None:
    rows = [(name, table.rows, table.files) for name, table in report.manifest.tables.items()]
    print_table(("table", "rows", "files"), rows)
    packages = plural(report.manifest.load_packages.count, "load package")
    echo(
        f"{plural(report.written, 'file')} written, {report.unchanged:,} unchanged, {report.deleted:,} deleted in "
        f"{report.seconds:.1f} s; {report.bytes / 1e6:,.1f} MB of {packages}."
    )
    echo(f"`tape export --verify {report.place}` proves the files.")


def _verify(place: str, as_json: bool) -> int:
    from extract.cli.progress import WorkProgress
    from extract.export.store import open_store
    from extract.export.verify import verify

    with open_store(place, is_new=False) as store, WorkProgress() as progress:
        report: VerifyReport = verify(store, progress)
    if as_json:
        print_json(report.to_json())
        return int(not report.is_proven)
    for problem in report.problems[:MOST_PROBLEMS]:
        echo(str(problem))
    if len(report.problems) > MOST_PROBLEMS:
        echo(f"{len(report.problems) - MOST_PROBLEMS:,} more differences.")
    if report.is_proven:
        named = ", ".join(
            f"{count:,} {reason.replace('_', ' ')}" for reason, count in sorted(report.gaps.items())
        )
        rows = sum(table.rows for table in report.manifest.tables.values())
        echo(
            f"{plural(rows, 'row')} in {plural(len(report.manifest.files), 'file')} are as they were exported on "
            f"{report.manifest.created_at}; missing trades, all named: {named or 'none'}."
        )
        return 0
    echo(
        f"{place} is not the export that its manifest describes: {plural(len(report.problems), 'difference')}."
    )
    return 1
