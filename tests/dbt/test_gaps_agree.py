"""`deribit.trade_gaps` and `tape gaps`, which use different statements, report the same gaps."""

from __future__ import annotations

import random

import pytest

from extract.clickhouse.refresh import refresh
from extract.sandbox.tape import Tape
from harness import raw_tables
from harness.dbt_project import Project
from harness.raw_tables import raw_trades
from tests.dbt.test_backfill_progress import runs_of
from tests.retention.test_retention import gaps_of, tape_gaps
from tests.support.recorded import RECORDED_TAPE, needs_recordings

KINDS = ("future", "option", "spot", "future_combo", "option_combo")


def built(dbt: Project, trades: list[dict]) -> None:
    """All of `trades` in packages, all time covered."""
    dbt.empty()
    raw_tables.cover_everything(dbt.client, *KINDS, currencies={trade["currency"] for trade in trades})
    half = len(trades) // 2
    raw_tables.load(dbt.client, "1764000001.5", trades[half:])
    raw_tables.load(dbt.client, "1764000002.5", trades[: half + 10])
    refresh(dbt.database)


@pytest.mark.slow
def test_model_and_tape_gaps_equal_python_on_a_tape_with_gaps(dbt: Project) -> None:
    """Heads and inner gaps of every kind of instrument."""
    trades = raw_trades(Tape.generate(seed=21, trades=4_000, days=5))
    draw = random.Random(21)
    trades = [trade for trade in trades if draw.random() > 0.2]
    built(dbt, trades)
    seqs: dict[str, set[int]] = {}
    for trade in trades:
        seqs.setdefault(trade["instrument_name"], set()).add(trade["trade_seq"])
    holes = sorted(
        (name, first, last)
        for name, there in seqs.items()
        for first, last in runs_of(set(range(1, max(there))) - there)
    )
    assert len(holes) > 300
    assert gaps_of(dbt) == holes
    assert tape_gaps(dbt.database) == holes


@pytest.mark.slow
@needs_recordings
def test_model_and_tape_gaps_agree_on_the_recorded_tape(dbt: Project) -> None:
    """Seventy heads."""
    built(dbt, raw_trades(Tape.load(RECORDED_TAPE)))
    gaps = gaps_of(dbt)
    assert gaps == tape_gaps(dbt.database)
    assert len(gaps) == 70
    assert sum(last - first + 1 for _, first, last in gaps) == 19_104
