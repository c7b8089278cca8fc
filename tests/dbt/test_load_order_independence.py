"""Generated histories: packages in any order, repeated, restated, moved; complete, partial and killed runs."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import raw_tables
from harness.dbt_project import Project
from tests.support.candle_truth import Trade, assert_true

EXAMPLES = int(os.environ.get("DERIBIT_TAPE_DBT_EXAMPLES", "4"))
START_MS = 1_738_367_990_000  # 2025-01-31 23:59:50, so that a minute, a day and a month end within seconds
NAMES = ("BTC-PERPETUAL", "ETH_USDC-PERPETUAL", "BTC-28FEB25-90000-C", "BTC_USDC", "BTC-FS-28FEB25_PERP")
TIMES_MS = st.one_of(st.integers(0, 30_000), st.sampled_from([400 * 86_400_000, -35 * 86_400_000, 3_600_000]))


@st.composite
def trades(draw: st.DrawFn) -> Trade:
    """A trade with one of a few keys, so that packages restate each other's trades."""
    name = draw(st.sampled_from(NAMES))
    is_option = name.endswith("-C")
    return {
        "instrument_name": name,
        "trade_seq": draw(st.integers(1, 4)),
        "trade_id": draw(st.sampled_from(["7", "ETH-8", "009", "x"])),
        "timestamp": START_MS + draw(TIMES_MS),
        "price": draw(st.integers(1, 10**7)) / draw(st.sampled_from([1, 2, 1000])),
        "amount": draw(st.sampled_from([0.1, 0.7000000000000001, 0.3999999999999999, 10.0, 12_345.678])),
        "direction": draw(st.sampled_from(["buy", "sell"])),
        "iv": draw(st.sampled_from([None, 0.0, 55.55])) if is_option else None,
        "liquidation": draw(st.sampled_from([None, None, "MT"])),
        "block_trade_id": draw(st.sampled_from([None, None, "BLOCK-1"])),
        "kind": "option"
        if is_option
        else "future_combo"
        if "-FS-" in name
        else "future"
        if "-" in name
        else "spot",
        "currency": "BTC",
    }


PACKAGES = st.lists(
    st.lists(trades(), max_size=12, unique_by=lambda t: (t["instrument_name"], t["trade_seq"])),
    min_size=2,
    max_size=4,
)
# Between packages: no run, a full run, a run of `trades` only, a run killed before it was recorded, a full refresh.
RUNS = ("none", "whole", "trades alone", "killed", "rebuilt")


def act(dbt: Project, run: str) -> None:
    if run == "whole":
        dbt.run()
    elif run == "trades alone":
        dbt.run("--select", "+trades")
    elif run == "killed":
        dbt.run("--select", "+ohlcv_15m")
        dbt.client.command(
            "ALTER TABLE deribit.load_ledger DELETE WHERE is_consumed AND model IN ('trade_versions', "
            "'ohlcv_15m_versions') AND claimed_at = (SELECT max(claimed_at) FROM deribit.load_ledger) "
            "SETTINGS mutations_sync = 2"
        )
    elif run == "rebuilt":
        dbt.run("--full-refresh", "--select", "+ohlcv_15m_versions")


@pytest.mark.slow
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(PACKAGES, st.randoms(use_true_random=False), st.lists(st.sampled_from(RUNS), min_size=4, max_size=4))
def test_any_order_of_loads_and_runs_gives_the_same_models(
    dbt: Project, packages: list[list[Trade]], order, runs: list[str]
) -> None:
    """The final content of the views depends on the packages only, not on their order or on the runs in between."""
    loads = {f"{1764000000 + n}.123456": rows for n, rows in enumerate(packages)}
    dbt.fresh()
    for (load_id, rows), run in zip(order.sample(sorted(loads.items()), len(loads)), runs, strict=False):
        raw_tables.load(dbt.client, load_id, rows)
        act(dbt, run)
    dbt.run()
    assert_true(dbt, loads)
