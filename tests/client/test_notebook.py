"""The notebook of docs/notebooks, run as a script on a small market."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from extract.clickhouse.settings import ClickHouseSettings
from extract.paths import ROOT
from tests.support.market import Market, series_rows

NOTEBOOK = ROOT / "docs/notebooks/backtests.py"


@pytest.mark.slow
def test_notebook_ends_with_the_results_of_its_backtests(
    market: Market, clickhouse_env: ClickHouseSettings, tmp_path: Path
) -> None:
    """The funding is the sum of what was loaded; the calls are worth their premiums minus their payoffs."""
    env = os.environ | {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, NOTEBOOK], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rates = [
        row["interest_1h"]
        for row in series_rows()["funding_rates"]
        if row["instrument_name"] == "BTC-PERPETUAL"
    ]
    assert f"Funding carry: {len(rates)} hours, {sum(rates):+.6%} earned" in done.stdout
    calls = re.search(r"Covered call: (\d+) calls sold, ([+-]\d+\.\d+) BTC", done.stdout)
    assert calls, done.stdout
    assert int(calls[1]) > 0
    assert "days of candles, Coverage(proven=False, missing=1, absent=1" in done.stdout
