"""A dbt run after one that was killed with SIGKILL completes the models."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from extract.paths import ROOT
from extract.sandbox.tape import Tape
from harness import raw_tables
from harness.dbt_project import TABLES, Project
from harness.raw_tables import raw_trades
from tests.dbt.test_model_truth import DAY_MS
from tests.support.candle_truth import assert_true

MOMENTS = (1, 2, 3, 5, 9)
STEPS = """
    SELECT
        (SELECT count() FROM deribit.refresh_log) + (SELECT count(DISTINCT model, verified_by) FROM deribit.verified_months)
        AS n
"""
"""Portions inserted or candles recomputed, and tables compared."""


class KillableRun:
    """Runs of dbt in a separate process that can be killed."""

    def __init__(self, dbt: Project, scratch: Path) -> None:
        self.client = dbt.client
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.killable_dbt", str(scratch), *TABLES],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        assert self._line() == "ready"

    def _line(self) -> str:
        return self.process.stdout.readline().strip()

    def killed_at(self, step: int) -> int:
        """Exit code of a run that is killed as soon as it has done `step` steps."""
        earlier = self._steps()
        self.process.stdin.write("\n")
        pid = int(self._line())
        deadline = time.monotonic() + 120
        while self._steps() < earlier + step:
            assert time.monotonic() < deadline, "the run did not reach this step"
            time.sleep(0.002)
        os.kill(pid, signal.SIGKILL)
        return int(self._line())

    def _steps(self) -> int:
        return int(self.client.command(STEPS))


@pytest.fixture
def killable(fresh_dbt: Project, tmp_path: Path) -> Iterator[KillableRun]:
    run = KillableRun(fresh_dbt, tmp_path)
    yield run
    run.process.communicate(timeout=60)


@pytest.mark.slow(minutes=3)
def test_run_after_kill_at_any_step_completes_the_models(fresh_dbt: Project, killable: KillableRun) -> None:
    """Each kill is preceded by a new load package, which also restates trades and moves them to other times."""
    trades = raw_trades(Tape.generate(seed=11, trades=2_000, days=40))
    size = len(trades) // (len(MOMENTS) + 1)
    loads = {"1764000000.5": trades[:size]}
    raw_tables.load(fresh_dbt.client, "1764000000.5", loads["1764000000.5"])
    fresh_dbt.run()
    for n, step in enumerate(MOMENTS, 1):
        load_id = f"{1764000000 + n}.5"
        restated = [
            trade | {"price": trade["price"] + n, "timestamp": trade["timestamp"] + at % 3 * 20 * DAY_MS}
            for at, trade in enumerate(trades[(n - 1) * size : n * size : 9])
        ]
        loads[load_id] = trades[n * size : (n + 1) * size] + restated
        raw_tables.load(fresh_dbt.client, load_id, loads[load_id])
        assert killable.killed_at(step) == -signal.SIGKILL
        fresh_dbt.run(*TABLES)
        assert_true(fresh_dbt, loads)
