"""What a person reads before a run, of its plan, and at its end."""

from __future__ import annotations

from typing import Literal

from rich.console import Console
from rich.table import Table

from extract.estimate.estimator import Plan
from extract.estimate.plan import PlanComparison
from extract.pipeline.run import RunSummary

MOST_NAMED = 10
"""Unknown fields named at the end of a run; an exchange that makes up names must not fill the screen."""


def print_summary(
    summary: RunSummary, comparison: PlanComparison | None = None, console: Console | None = None
) -> None:
    """Trades by currency and kind, then what it took; on standard output."""
    console = console or Console()
    loaded = {stream: trades for stream, trades in summary.trades.items() if trades}
    if loaded:
        table = _table("currency", "kind", trades="right")
        for stream, trades in sorted(loaded.items()):
            table.add_row(stream.currency, stream.kind, f"{trades:,}")
        console.print(table)
    new = summary.total + summary.repaired
    rate = f" ({new / max(summary.seconds, 0.001):,.0f}/s)" if new else ""
    console.print(
        f"{new:,} new trades in {summary.seconds:.1f} s{rate}: {summary.requests:,} requests, "
        f"{summary.retries:,} retries, {summary.wire_bytes / 1e6:,.1f} MB over the wire.",
        highlight=False,
        soft_wrap=True,
    )
    for note in notes(summary):
        console.print(note, highlight=False, soft_wrap=True, markup=False)
    if comparison:
        console.print(plan_vs_actual(summary, comparison))


def print_plan(plan: Plan, console: Console | None = None) -> None:
    """What a run would take, by currency and kind and in all, and what that rests on; on standard output."""
    console = console or Console()
    table = _table("currency", "kind", trades="right", requests="right", MB="right", how="left")
    for each in sorted(plan.streams, key=lambda each: each.stream):
        if each.trades:
            mb = f"{each.bytes / 1e6:,.1f}"
            table.add_row(*each.stream, f"{each.trades:,}", f"{each.requests:,}", mb, each.how)
    if table.row_count:
        console.print(table)
    lines = [
        f"{plan.trades:,} trades in {plan.requests:,} requests: {duration(plan.seconds)} at the rate limit, "
        f"{plan.wire_bytes / 1e6:,.1f} MB over the wire, {plan.disk_bytes / 1e6:,.1f} MB on disk.",
        *plan.inputs,
        "Nothing was loaded; the same command without --plan runs it and shows plan beside fact.",
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def plan_vs_actual(summary: RunSummary, comparison: PlanComparison) -> Table:
    plan = comparison.plan
    fact = "fact, of this run alone" if plan.partially_run else "fact"
    table = _table(f"planned {plan.planned_at}", **{"plan": "right", fact: "right"})
    new = summary.total + summary.repaired
    table.add_row("trades", f"{plan.trades:,}", f"{new:,}")
    table.add_row("requests", f"{plan.requests:,}", f"{summary.requests:,}")
    table.add_row("seconds", f"{plan.seconds:,.1f}", f"{summary.seconds:,.1f}")
    table.add_row("MB over the wire", f"{plan.wire_bytes / 1e6:,.1f}", f"{summary.wire_bytes / 1e6:,.1f}")
    table.add_row("MB on disk", f"{plan.disk_bytes / 1e6:,.1f}", f"{comparison.disk_bytes / 1e6:,.1f}")
    return table


def _table(*left: str, **columns: Literal["left", "right"]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name, justify in {**dict.fromkeys(left, "left"), **columns}.items():
        table.add_column(name, justify=justify, no_wrap=True)
    return table


def duration(seconds: float) -> str:
    """`1.4 hours`, `3.0 minutes`, `12.5 seconds`."""
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} hours"
    return f"{seconds / 60:.1f} minutes" if seconds >= 120 else f"{seconds:.1f} seconds"


def notes(summary: RunSummary) -> list[str]:
    """Whatever was out of the ordinary, a sentence each."""
    found = []
    if not summary.is_complete:
        found.append(f"Stopped {summary.stopped} with more to do; the same command goes on from there.")
    if summary.repaired:
        found.append(f"{summary.repaired:,} of them were missing from the pages and fetched by trade_seq.")
    if summary.restated:
        found.append(f"{summary.restated:,} of them were known and re-stated by the exchange: new versions.")
    if summary.absent:
        found.append(f"{summary.absent:,} trade_seq the exchange does not have: deribit_raw.absent_trades.")
    if summary.rejected:
        found.append(f"{summary.rejected:,} records could not be typed: deribit_raw.rejected_trades.")
    if summary.unknown_fields:
        named = summary.unknown_fields.most_common(MOST_NAMED)
        fields = [f"{name} ({count:,} record{'s' * (count != 1)})" for name, count in named]
        if more := len(summary.unknown_fields) - len(named):
            fields.append(f"and {more:,} more")
        found.append(f"Fields that no column knows are kept in `extra`: {', '.join(fields)}.")
    return found
