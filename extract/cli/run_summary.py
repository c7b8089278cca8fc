"""Print the plan of a run, or its summary."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from extract.cli.output import MOST_NAMED, describe_set_aside, echo, plural, print_table
from extract.errors import TapeError
from extract.estimate.estimator import Plan
from extract.estimate.plan import PlanComparison
from extract.pipeline.summary import RunSummary, describe_contradictory, describe_unrepaired
from extract.times import duration


def print_summary(summary: RunSummary, comparison: PlanComparison | None = None) -> None:
    """Print trades by currency and kind, totals, notes, and the plan next to the result where there was a plan."""
    loaded = {stream: trades for stream, trades in summary.trades.items() if trades}
    if loaded:
        print_table(
            ("currency", "kind", "trades"), [(*stream, trades) for stream, trades in sorted(loaded.items())]
        )
    new = summary.total + summary.repaired
    rate = f" ({new / max(summary.seconds, 0.001):,.0f}/s)" if new else ""
    echo(
        f"{new:,} new trades in {summary.seconds:.1f} s{rate}: {summary.requests:,} requests, "
        f"{summary.retries:,} retries, {summary.wire_bytes / 1e6:,.1f} MB over the wire."
    )
    for note in notes(summary):
        echo(note)
    if comparison:
        plan = comparison.plan
        actual = "actual, this run only" if plan.partially_run else "actual"
        rows = [
            ("trades", f"{plan.trades:,}", f"{new:,}"),
            ("requests", f"{plan.requests:,}", f"{summary.requests:,}"),
            ("seconds", f"{plan.seconds:,.1f}", f"{summary.seconds:,.1f}"),
            ("MB over the wire", f"{plan.wire_bytes / 1e6:,.1f}", f"{summary.wire_bytes / 1e6:,.1f}"),
            ("MB on disk", f"{plan.disk_bytes / 1e6:,.1f}", f"{comparison.disk_bytes / 1e6:,.1f}"),
        ]
        print_table((f"planned {plan.planned_at}", "plan", actual), rows)


def print_turn(turn: RunSummary | TapeError) -> None:
    """Print one line for a turn of `tape follow` that loaded trades, could not load everything, or failed."""
    at = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    if isinstance(turn, TapeError):
        echo(f"{at} {turn}", err=True)
        return
    if new := turn.total + turn.repaired:
        echo(f"{at} {plural(new, 'new trade')} in {turn.seconds:.1f} s.")
    for note in notes(replace(turn, stopped=None)):
        echo(f"{at} {note}", err=True)


def print_plan(plan: Plan) -> None:
    """Print what a run would take, by currency and kind and in total, and what the estimate is based on."""
    rows = [
        (*each.stream, each.trades, each.requests, f"{each.bytes / 1e6:,.1f}", each.how)
        for each in sorted(plan.streams, key=lambda each: each.stream)
        if each.trades
    ]
    if rows:
        print_table(("currency", "kind", "trades", "requests", "MB", "how"), rows)
    echo(
        f"{plan.trades:,} trades in {plan.requests:,} requests: {duration(plan.seconds)} at the rate limit, "
        f"{plan.wire_bytes / 1e6:,.1f} MB over the wire, {plan.disk_bytes / 1e6:,.1f} MB on disk."
    )
    for line in plan.inputs:
        echo(line)
    echo(
        "Nothing was loaded; the same command without --plan runs it and compares the result with this plan."
    )


def notes(summary: RunSummary) -> list[str]:
    """One sentence for each unusual event of the run."""
    sentences = []
    if not summary.is_complete:
        sentences.append(f"Stopped {summary.stopped} with more to do; the same command resumes there.")
    sentences += describe_set_aside(summary.set_aside, ", and nothing of it counts as covered")
    sentences += summary.notes[:MOST_NAMED]
    if summary.unrepaired:
        sentences.append(describe_unrepaired(summary.unrepaired))
    if summary.contradictory:
        sentences.append(describe_contradictory(summary.contradictory))
    counts = {
        "{:,} of them were missing from the pages and fetched by trade_seq.": summary.repaired,
        "{:,} known trades were restated by the exchange: new versions.": summary.restated,
        "{:,} trades that the exchange did not have before were fetched.": summary.recovered,
        "The exchange does not have {:,} trade_seq: deribit_raw.absent_trades.": summary.absent,
        "{:,} records could not be read: deribit_raw.rejected_trades.": summary.rejected,
    }
    sentences += [sentence.format(count) for sentence, count in counts.items() if count]
    sentences += _series_notes(summary)
    if summary.unknown_fields:
        named = summary.unknown_fields.most_common(MOST_NAMED)
        fields = [f"{name} ({plural(count, 'record')})" for name, count in named]
        if more := len(summary.unknown_fields) - len(named):
            fields.append(f"and {more:,} more")
        sentences.append(f"Fields without a column are stored in `extra`: {', '.join(fields)}.")
    return sentences


def _series_notes(summary: RunSummary) -> list[str]:
    sentences = []
    if summary.series:
        rows = [f"{rows:,} of {name}" for name, rows in sorted(summary.series.items())]
        sentences.append(f"New rows of series: {', '.join(rows)}.")
    if missing := sum(summary.series_missing.values()):
        sentences.append(
            f"The exchange did not send {plural(missing, 'row')} of series: deribit_raw.series_gaps."
        )
    if summary.series_refused:
        (name, answer), *others = summary.series_refused.items()
        also = f" and {plural(len(others), 'other key')}" if others else ""
        sentences.append(f"The exchange does not offer {name}{also}, and is asked again in a day: {answer}.")
    if summary.series_rejected:
        rejected = plural(summary.series_rejected, "record")
        sentences.append(f"{rejected} of series could not be read: deribit_raw.rejected_records.")
    return sentences + summary.disagreements[:MOST_NAMED]
