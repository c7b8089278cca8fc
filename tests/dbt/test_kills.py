"""A dbt run after one that was killed with SIGKILL completes the models."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from extract.paths import ROOT
from extract.sandbox.tape import Tape
from harness import raw_tables
from harness.dbt_project import Project
from harness.raw_tables import raw_trades
from tests.dbt.test_model_truth import DAY_MS
from tests.support.candle_truth import assert_true

# In a run, nine tables claim load packages and later mark them as consumed: eighteen steps.
LAST_STEP = 18
MOMENTS = (1, 2, 3, 5, 8, 11, 14, 17)
STEPS = """
    SELECT count(DISTINCT model, is_consumed) AS n FROM deribit.load_ledger
    WHERE claim_id NOT IN {earlier:Array(String)}
"""


class KillableRun:
    """Runs of dbt in a separate process that can be killed."""

    def __init__(self, dbt: Project, scratch: Path) -> None:
        self.client = dbt.client
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.killable_dbt", str(scratch)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        assert self._line() == "ready"

    def _line(self) -> str:
        return self.process.stdout.readline().strip()

    def killed_at(self, step: int) -> tuple[int, int]:
        """(exit code, steps done) of a run that is killed as soon as it has done `step` steps."""
        earlier = [claim for (claim,) in self._ask("SELECT DISTINCT claim_id FROM deribit.load_ledger")]
        self.process.stdin.write("\n")
        pid = int(self._line())
        deadline = time.monotonic() + 60
        while self._steps(earlier) < step:
            assert time.monotonic() < deadline, "the run did not reach this step"
            time.sleep(0.002)
        os.kill(pid, signal.SIGKILL)
        return int(self._line()), self._steps(earlier)

    def _steps(self, earlier: list[str]) -> int:
        return self._ask(STEPS, earlier=earlier)[0][0]

    def _ask(self, query: str, **parameters: Any) -> list[tuple[Any, ...]]:
        return list(self.client.query(query, parameters=parameters).result_rows)


@pytest.fixture
def killable(fresh_dbt: Project, tmp_path: Path) -> Iterator[KillableRun]:
    run = KillableRun(fresh_dbt, tmp_path)
    yield run
    run.process.communicate(timeout=60)


@pytest.mark.slow
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
        code, done = killable.killed_at(step)
        assert code == -signal.SIGKILL
        assert done < LAST_STEP
        fresh_dbt.run()
        assert_true(fresh_dbt, loads)
