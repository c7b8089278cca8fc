"""`tape push`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from extract.push.push import PushReport

HEADER = ("partition", "local", "cloud", "cloud's own", "lacking", "changed", "added", "restated")


@click.command()
@click.option("--verify", is_flag=True, help="Only prove; copy nothing.")
@click.option("--json", "as_json", is_flag=True, help="One object for machines.")
def push(verify: bool, as_json: bool) -> int:
    """Copy what local has and cloud lacks, month by month, and prove the two equal.

    The month that lacks most comes first. Everything goes over the one HTTPS port, exactly once, however often a push
    is killed: the next one goes on. Each month is proven by counts, keys and content, and then written down in
    deribit_raw.pushes. A load package is listed on cloud when all of it is there, so `dbt build --target cloud` takes it
    in once and whole. A later run into cloud goes on where local ends.

    Push adds what is lacking and never deletes: rows changed or added on cloud are named, and left as they are.

    Exit code: 0 equal, 1 not equal, 2 local has nothing to push, 3 cloud is not configured or holds another exchange's
    trades, 4 a part outside failed; what was pushed stays.

    Example: tape push --verify
    """
    from extract.push.push import push as push_all

    report = push_all(verify=verify)
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=1))
    else:
        show(report)
    return int(not report.is_equal)


def show(report: PushReport) -> None:
    """What differs, as a table and as commands; then what it all comes to."""
    from extract.cli.output import format_table

    differing = [part for part in report.parts if not part.is_equal]
    if differing:
        rows = (
            (p.label, p.local, p.cloud, p.cloud_only, p.lacking, p.changed, p.added, p.restated) for p in differing
        )
        for line in format_table(HEADER, rows):
            click.echo(line)
    for note in notes(report):
        click.echo(note)


def notes(report: PushReport) -> list[str]:
    """A sentence for each thing that one should know."""
    found: list[str] = []
    if report.pushed:
        trades = f"{report.pushed:,} trade{'s' * (report.pushed != 1)}"
        found.append(f"{trades} pushed in {report.seconds:.1f} s ({report.pushed / report.seconds:,.0f}/s).")
    if report.excluded_months:
        months = ", ".join(f"{month // 100}-{month % 100:02}" for month in report.excluded_months)
        found.append(f"Left out, since `tape retention` dropped them on one side: {months}.")
    if own := sum(part.cloud_only for part in report.months):
        found.append(f"{own:,} trades are of cloud's own runs; they stay, and are no part of the comparison.")
    if report.is_equal:
        months = f"{len(report.months):,} month{'s' * (len(report.months) != 1)}"
        found.append(
            f"local and cloud are equal: {report.trades:,} trades in {months}, {report.packages:,} load packages."
        )
        return found
    return [*found, *_differences(report)]


def _differences(report: PushReport) -> list[str]:
    differing = [part for part in report.parts if not part.is_equal]
    found = [
        f"local and cloud are not equal: {', '.join(part.label for part in differing) or 'load packages'}."
    ]
    if any(part.lacking for part in differing) or report.unpublished:
        found.append("What cloud lacks, `tape push` copies.")
    if any(part.changed or part.added for part in differing):
        found.append(
            "What was changed or added on cloud, push does not touch, for it never deletes. To have local's word there, "
            "delete those rows on cloud and then run `tape push`:"
        )
        found += [statement for part in differing for statement in part.deletions()]
    if unfinished := sum(part.unfinished for part in differing):
        found.append(
            f"{unfinished:,} of the rows added are of load packages that no run has finished: is one into cloud at work?"
        )
    if any(part.restated for part in differing):
        found.append(
            "Restated trades read otherwise in cloud's own newer load packages than here; `dlt pipeline run` does not ask "
            "again for time that is covered, so these stay apart: compare them by trade_seq in deribit.trades."
        )
    return found
