"""The summary of a run adds up the figures of its windows."""

from __future__ import annotations

from collections import Counter

from extract.cli.run_summary import notes
from extract.deribit.schema import RejectedTrade
from extract.deribit.streams import Stream
from extract.pipeline.summary import RunSummary
from extract.source.series import SeriesReport
from extract.sweep.ledger import SeqRange
from extract.sweep.window import Absent, WindowReport

STREAM = Stream("BTC", "future")


def test_summary_adds_up_the_figures_of_each_window() -> None:
    """Absent trades are counted, not their ranges; rows are counted when their slice arrives."""
    summary = RunSummary()
    for _ in range(2):
        summary.add(
            WindowReport(
                trades=100,
                repaired=2,
                known=3,
                restated=4,
                rejected=[(STREAM, RejectedTrade("no price", "{}"))] * 5,
                absent=[Absent(STREAM, SeqRange("BTC-PERPETUAL", 5, 7)), Absent(STREAM, SeqRange("X", 1, 1))],
                unknown_fields=Counter(new_field=6),
            )
        )
    assert summary == RunSummary(
        windows=2,
        repaired=4,
        known=6,
        restated=8,
        rejected=10,
        absent=8,
        unknown_fields=Counter(new_field=12),
    )


def test_series_that_the_exchange_does_not_offer_are_named() -> None:
    """Nothing of them is missing, but their tables have no rows."""
    summary = RunSummary()
    summary.add_series(
        SeriesReport(refused={"settlements of X delivery": "error -32601", "other": "the same"})
    )
    [note] = notes(summary)
    assert "does not offer settlements of X delivery and 1 other key" in note
    assert "error -32601." in note
