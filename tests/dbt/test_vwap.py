"""The volume-weighted price of a coin across instruments equals a computation in plain Python."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from itertools import accumulate

import pytest

from extract.clickhouse.refresh import refresh
from extract.sandbox.instrument_names import parse
from extract.sandbox.tape import Tape
from harness import raw_tables
from harness.dbt_project import Project
from harness.raw_tables import raw_trades
from tests.support.candle_truth import bucket_start, volume_and_notional

MIN_TRADES, MAX_DEVIATION = 5, 0.05


@pytest.fixture(scope="module")
def tape() -> Tape:
    """One busy day."""
    return Tape.generate(seed=3, trades=3000, days=1)


def truth(tape: Tape) -> dict:
    """(underlying, quote currency, hour) → expected row."""
    hours: dict = defaultdict(lambda: defaultdict(list))
    for trade in raw_trades(tape):
        parts = parse(trade["instrument_name"])
        if parts.kind in ("future", "spot"):  # a name that does not follow the rules has no underlying
            key = (parts.base, parts.quote or "USD", bucket_start("1h", trade["timestamp"]))
            hours[key][trade["instrument_name"]].append(volume_and_notional(trade))
    return {key: across(instruments.values()) for key, instruments in hours.items()}


def across(instruments) -> dict:
    """One bucket's instruments, each a list of (volume, notional)."""
    sums = [
        (sum(n for _, n in sizes) / sum(v for v, _ in sizes), sum(v for v, _ in sizes), sizes)
        for sizes in instruments
    ]
    candidates = [each for each in sums if len(each[2]) >= MIN_TRADES] or sums
    ranked = sorted(candidates, key=lambda each: each[0])
    below = accumulate(volume for _, volume, _ in ranked)
    half = sum(volume for _, volume, _ in ranked) / 2
    median = next(price for (price, _, _), seen in zip(ranked, below, strict=True) if seen >= half)
    counted = [each for each in candidates if abs(each[0] - median) <= median * Decimal(str(MAX_DEVIATION))]
    volume, notional = (sum(size[at] for each in counted for size in each[2]) for at in (0, 1))
    return {
        "vwap": pytest.approx(float(notional / volume), rel=1e-12),
        "median_price": pytest.approx(float(median), rel=1e-12),
        "volume": volume,
        "notional": notional,
        "trade_count": sum(len(each[2]) for each in counted),
        "instruments": len(counted),
        "outliers": len(candidates) - len(counted),
        "thin_instruments": len(sums) - len(candidates),
    }


def test_vwap_equals_python_computation(dbt: Project, tape: Tape) -> None:
    """Every hour and underlying is equal; thin instruments, outliers and combos are excluded."""
    dbt.empty()
    raw_tables.load(dbt.client, "1764000001.5", raw_trades(tape))
    refresh(dbt.database)
    shown = {
        (row.pop("underlying"), row.pop("quote_currency"), row.pop("bucket_at")): row
        for row in dbt.rows("SELECT * FROM deribit.underlying_vwap_1h")
    }
    expected = truth(tape)
    assert shown.keys() == expected.keys()
    for key, row in expected.items():
        assert shown[key] == row, key
    assert any(row["outliers"] for row in expected.values())
    assert any(row["thin_instruments"] for row in expected.values())


def test_contract_schema_grain_and_unit_test_pass(dbt: Project) -> None:
    """`dbt build` of the model runs them all."""
    dbt.must("test", "--select", "underlying_vwap_1h")
