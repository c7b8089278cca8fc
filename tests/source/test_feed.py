"""Windows without anything to load give no load package; what a run has to record does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from extract.deribit.instruments import InstrumentsReport
from extract.deribit.schema import RejectedTrade
from extract.deribit.streams import Stream
from extract.errors import OutsideError, ProofError
from extract.source.feed import IDLE_GROWTH_MS, Window, spill_table
from extract.sweep.state import Span
from extract.sweep.window import WindowReport
from extract.sweep.windows import WindowResult

STREAM = Stream("BTC", "option")


SET_ASIDE_MS = IDLE_GROWTH_MS + 5
SET_ASIDE = WindowReport(unproven=[(STREAM, Span(1, SET_ASIDE_MS), ProofError("unreadable"))])


def window(
    report: WindowReport, covered_ms: int = 1, rows: Any = (), recorded: Any = None, **listing: Any
) -> Window:
    """A window of one stream, of which 1 ms is covered already."""
    states = {str(STREAM): {"covered": [[1, covered_ms]]}}
    result = WindowResult(report, states, True)
    before = {str(STREAM): {"covered": [[1, 1]]}}
    listed = InstrumentsReport(**listing)
    window = Window(iter([result]), before, {}, iter(rows), listed, "exchange", lambda load_id: None)
    window.recorded = recorded or {}
    return window


def test_window_of_a_few_covered_minutes_is_idle() -> None:
    assert window(WindowReport()).is_idle
    assert window(WindowReport(), IDLE_GROWTH_MS).is_idle
    assert not window(WindowReport(), IDLE_GROWTH_MS + 1).is_idle


def test_stream_that_is_set_aside_in_each_turn_is_recorded_every_ten_minutes() -> None:
    assert window(SET_ASIDE, recorded={STREAM: 6}).is_idle
    assert not window(SET_ASIDE, recorded={STREAM: 5}).is_idle


@pytest.mark.parametrize(
    "busy",
    [
        window(SET_ASIDE),
        window(WindowReport(rejected=[(STREAM, RejectedTrade("odd", "7"))])),
        window(WindowReport(), rejected=[(STREAM, RejectedTrade("odd", "7"))]),
        window(WindowReport(), rows=[{"instrument_name": "A"}]),
    ],
    ids=["stream set aside", "rejected trade", "rejected instrument", "instrument"],
)
def test_window_with_something_to_record_is_not_idle(busy: Window) -> None:
    """Otherwise `tape gaps` would not report the time of a stream that was set aside."""
    assert not busy.is_idle
    assert busy.result is None


def test_full_disk_is_an_outside_error(tmp_path: Path) -> None:
    """Trades that were fetched in advance cannot be stored: the run ends with exit code 4 and one sentence."""
    with pytest.raises(OutsideError, match=r"^Fetched trades cannot be stored in .*: .*No such file"):
        spill_table(str(tmp_path / "missing"), pa.table({"a": [1]}))
