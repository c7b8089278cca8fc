"""What a person reads at the end of a run."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from extract.pipeline import RunSummary


def print_summary(summary: RunSummary, console: Console | None = None) -> None:
    """Trades by currency and kind, then what it took; on standard output."""
    console = console or Console()
    loaded = {stream: trades for stream, trades in summary.trades.items() if trades}
    if loaded:
        table = Table(box=None, pad_edge=False)
        table.add_column("currency")
        table.add_column("kind")
        table.add_column("trades", justify="right")
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
        console.print(note, highlight=False, soft_wrap=True)


def notes(summary: RunSummary) -> list[str]:
    """Whatever was out of the ordinary, a sentence each."""
    found = []
    if summary.repaired:
        found.append(f"{summary.repaired:,} of them were missing from the pages and fetched by trade_seq.")
    if summary.restated:
        found.append(f"{summary.restated:,} of them were known and re-stated by the exchange: new versions.")
    if summary.absent:
        found.append(f"{summary.absent:,} trade_seq the exchange does not have: deribit_raw.absent_trades.")
    if summary.rejected:
        found.append(f"{summary.rejected:,} records could not be typed: deribit_raw.rejected_trades.")
    if summary.unknown_fields:
        found.append(
            f"Fields that no column knows are kept in `extra`: {', '.join(sorted(summary.unknown_fields))}."
        )
    return found
