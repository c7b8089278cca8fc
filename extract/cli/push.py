"""`tape push`: copy to cloud and prove that local and cloud are equal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from extract.cli.options import json_option
from extract.cli.output import echo, plural, print_json, print_table

if TYPE_CHECKING:
    from extract.push.push import PushReport

HEADER = ("partition", "local", "cloud", "cloud's own", "lacking", "changed", "added", "restated")


@click.command()
@click.option("--verify", is_flag=True, help="Only compare; copy nothing.")
@json_option
def push(verify: bool, as_json: bool) -> int:
    """Copy local data to cloud and prove that they are equal.

    Missing rows are copied month by month, starting with the month that lacks the most. They are sent over the one
    HTTPS port, exactly once: a push that was killed is resumed by the next one. Each month is proven by counts, keys
    and content, and the proof is recorded in deribit_raw.pushes. A load package is listed on cloud when all of it has
    arrived, so `dbt build --target cloud` consumes it once and complete. A later run into cloud resumes where local
    ends.

    Push adds missing rows and never deletes: rows changed or added on cloud are listed and left unchanged.

    Exit code: 0 equal, 1 not equal, 2 local has nothing to push, 3 cloud is not configured or holds trades of another
    exchange, 4 an external part failed; what was pushed stays.

    Example: tape push --verify
    """
    from extract.cli.progress import WorkProgress
    from extract.push.push import push as push_all

    with WorkProgress() as progress:
        report = push_all(verify=verify, listener=progress)
    if as_json:
        print_json(report.to_json())
        return int(not report.is_equal)
    rows = [
        (p.label, p.local, p.cloud, p.cloud_only, p.lacking, p.changed, p.added, p.restated)
        for p in report.parts
        if not p.is_equal
    ]
    if rows:
        print_table(HEADER, rows)
    for note in _notes(report):
        echo(note)
    return int(not report.is_equal)


def _notes(report: PushReport) -> Iterator[str]:
    """One sentence for each result, and statements that delete rows changed or added on cloud."""
    from extract.clickhouse.finished import describe_unfinished

    if report.unfinished:
        yield f"Not pushed: {describe_unfinished(report.unfinished)}"
    if report.pushed:
        rate = report.pushed / max(report.seconds, 0.001)
        yield f"{plural(report.pushed, 'trade')} pushed in {report.seconds:.1f} s ({rate:,.0f}/s)."
    if report.excluded_months:
        months = ", ".join(f"{month // 100}-{month % 100:02}" for month in report.excluded_months)
        yield f"Not compared, because `tape retention` dropped them on one side: {months}."
    if own := sum(part.cloud_only for part in report.months):
        yield f"{own:,} trades are from cloud's own runs; they stay and are not compared."
    if report.is_equal:
        months = plural(len(report.months), "month")
        packages = f"{report.packages:,} load packages"
        yield f"local and cloud are equal: {report.trades:,} trades in {months}, {packages}."
        return
    differing = [part for part in report.parts if not part.is_equal]
    labels = ", ".join(part.label for part in differing) or "load packages"
    yield f"local and cloud are not equal: {labels}."
    if any(part.lacking for part in differing) or report.unpublished:
        yield "`tape push` copies what cloud lacks."
    if any(part.changed or part.added for part in differing):
        yield (
            "Rows changed or added on cloud stay, because push never deletes. To replace them with the local rows, delete "
            "them on cloud and then run `tape push`:"
        )
        for part in differing:
            yield from part.deletions
    if unfinished := sum(part.unfinished for part in differing):
        yield (
            f"{unfinished:,} of the rows added belong to load packages that no run has finished: is a run into cloud "
            "under way?"
        )
    if any(part.restated for part in differing):
        yield (
            "Restated trades differ in newer load packages of cloud's own runs. `dlt pipeline run` does not request covered "
            "time again, so they stay different: compare them by trade_seq in deribit.trades."
        )
