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
from extract.source.feed import Window, spill_table
from extract.source.recorded import IDLE_GROWTH_MS, MAX_CHECKSUMS, Recorded
from extract.sweep.state import Span
from extract.sweep.window import WindowReport
from extract.sweep.windows import WindowResult

STREAM = Stream("BTC", "option")


SET_ASIDE_MS = IDLE_GROWTH_MS + 5


def set_aside() -> WindowReport:
    return WindowReport(unproven=[(STREAM, Span(1, SET_ASIDE_MS), ProofError("unreadable"))])


def window(
    report: WindowReport, covered_ms: int = 1, rows: Any = (), recorded: Any = None, **listing: Any
) -> Window:
    """A window of one stream, of which 1 ms is covered already."""
    states = {str(STREAM): {"covered": [[1, covered_ms]]}}
    result = WindowResult(report, states, True)
    before = {str(STREAM): {"covered": [[1, 1]]}}
    listed = InstrumentsReport(**listing)
    window = Window(iter([result]), before, {}, iter(rows), listed, "exchange", lambda load_id: None)
    window.recorded = recorded or Recorded()
    return window


def test_window_of_a_few_covered_minutes_is_idle() -> None:
    assert window(WindowReport()).is_idle
    assert window(WindowReport(), IDLE_GROWTH_MS).is_idle
    assert not window(WindowReport(), IDLE_GROWTH_MS + 1).is_idle


@pytest.mark.parametrize(
    ("span", "is_idle"),
    [
        (Span(1, 6), True),
        (Span(1, 5), False),
        (Span(2, SET_ASIDE_MS), False),
    ],
    ids=["grown by less", "grown by ten minutes", "begins earlier"],
)
def test_stream_that_is_set_aside_in_each_run_is_recorded_every_ten_minutes(
    span: Span, is_idle: bool
) -> None:
    """Also by another process: what is recorded is a part of the state."""
    recorded = Recorded(unproven={str(STREAM): span})
    assert window(set_aside(), recorded=Recorded.from_json(recorded.to_json())).is_idle == is_idle


def test_record_that_the_exchange_sends_again_is_recorded_once() -> None:
    odd, other = RejectedTrade("odd", '{"odd":1}'), RejectedTrade("odd", '{"odd":2}')
    recorded = Recorded()
    recorded.add([(STREAM, odd)], [])
    recorded = Recorded.from_json(recorded.to_json())
    assert window(WindowReport(rejected=[(STREAM, odd)]), recorded=recorded).is_idle
    for each in [(STREAM, other), (Stream("ETH", "option"), odd)]:
        report = WindowReport(rejected=[(STREAM, odd), each])
        assert not window(report, recorded=recorded).is_idle
        assert report.rejected == [each]


def test_number_of_remembered_records_is_limited() -> None:
    recorded = Recorded()
    for part in range(3):
        records = [RejectedTrade("odd", str(n)) for n in range(part * 600, part * 600 + 600)]
        recorded.add([(STREAM, each) for each in records], [])
    assert len(recorded.checksums) == MAX_CHECKSUMS
    assert not recorded.new_rejected([(STREAM, RejectedTrade("odd", "1799"))])


def test_unproven_time_is_recorded_again_after_the_stream_could_be_loaded() -> None:
    recorded = Recorded(unproven={str(STREAM): Span(1, 6)})
    recorded.forget([str(STREAM)])
    assert not window(set_aside(), recorded=recorded).is_idle


@pytest.mark.parametrize(
    "busy",
    [
        window(set_aside()),
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
