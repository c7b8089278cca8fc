"""`deribit.trade_gaps` and `tape gaps`, which use different statements, report the same gaps."""

from __future__ import annotations

import random

import pytest

from extract.clickhouse.refresh import refresh
from extract.coverage.gaps import find_gaps
from extract.sandbox.tape import Tape
from harness import raw_tables
from harness.dbt_project import Project
from harness.raw_tables import raw_trades
from tests.coverage.test_gap_definition import YEAR
from tests.dbt.test_backfill_progress import runs_of
from tests.retention.test_retention import gaps_of, tape_gaps
from tests.support.raw_tables import EPOCH, Raw, at
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


ODD = {"1970": -55 * YEAR, "year before": -YEAR, "year after": YEAR, "2085": 60 * YEAR, "between": 150}
SPANS = {"future": [(EPOCH, 10)], "option": [(0, 10)], "spot": [(0, 9), (200, 209), (400, 409)]}


def minutes_by_seq(odd: float) -> dict[str, dict[int, float]]:
    """Trades beside holes, some with an odd time: of each instrument, the minute of each number."""
    return {
        "nothing odd": {2: 1, 4: 2, 5: 3, 8: 9},
        "newest minute": {1: 1, 3: 10.5},
        "before": {1: 1, 2: 2, 4: odd, 6: 6, 7: 7},
        "before, after": {1: 1, 3: odd, 5: 5, 7: odd, 8: 8},
        "run": {1: 1, 3: odd, 4: odd, 6: odd, 9: 9},
        "first": {2: odd, 4: 2, 5: 3},
        "first run": {2: odd, 3: 1, 5: 2},
        "head": {1: odd, 3: odd + 1, 5: 5},
        "last": {1: 1, 2: 2, 4: odd},
        "last run": {2: 1, 4: odd, 5: odd, 7: odd},
        "all": {2: odd, 4: odd + 1},
        "one": {3: odd},
        "another span": {11: 2, 12: 3, 20: 201, 22: odd, 24: 207, 30: 209},
    }


def test_holes_beside_odd_times_are_listed_by_the_model_and_by_tape_gaps(dbt: Project) -> None:
    """In covered time from the beginning on, from a later time on, and in three spans."""
    dbt.empty()
    raw = Raw(dbt.database, raw_tables.TABLES)
    for kind, spans in SPANS.items():
        for start, end in spans:
            raw.covered(start, end, kind=kind)
        for odd, minute in ODD.items():
            for name, minutes in minutes_by_seq(minute).items():
                raw.trades(minutes, name=f"{kind}, {odd}: {name}", kind=kind)
    for name, created in (("option, year after: last", -5), ("option, 2085: all", 1)):
        raw.insert("instruments", instrument_name=name, kind="option", creation_timestamp=at(created))
    refresh(dbt.database)
    rows = dbt.rows("select * from deribit.coverage_gaps order by instrument_name, first_missing_seq")
    names = ("instrument_name", "first_missing_seq", "last_missing_seq", "place", "is_absent")
    listed = [tuple(row[name] for name in names) for row in rows]
    expected = [
        (gap.range.instrument_name, gap.range.first, gap.range.last, gap.where, gap.known_absent)
        for gap in find_gaps(dbt.database)
    ]
    assert listed == expected
    assert len(expected) > 300
