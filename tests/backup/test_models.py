"""Models after a restore: `dbt run` makes them from the restored raw tables as they were."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from dbt.cli.main import dbtRunner

from harness.dbt_project import failures, forget_databases, run_words
from tests.backup.conftest import Backups, days_before_end

MODELS = ("trades", "ohlcv_1m", "ohlcv_1d", "current_prices", "instruments", "trade_gaps", "covered_spans")
PLAN = "refresh_plan"
"""What a run refreshes after its load."""


def models(backups: Backups) -> dict[str, bytes]:
    client = backups.user.client
    return {
        name: client.raw_query(f"select * from deribit.{name} order by all", fmt="TSV") for name in MODELS
    }


@pytest.fixture
def build(loaded_backups: Backups, tmp_path: Path) -> Callable[[], None]:
    """Build the models, which the project is parsed for once."""
    manifest = dbtRunner().invoke(run_words("parse", tmp_path)).result
    runner = dbtRunner(manifest=manifest)

    def run() -> None:
        forget_databases()
        loaded_backups.user.client.command("create database if not exists deribit")
        result = runner.invoke(
            run_words("run", tmp_path, "--select", *(f"+{name}" for name in (*MODELS, PLAN)))
        )
        assert result.success, failures(result)

    return run


@pytest.mark.slow
def test_models_are_whole_after_a_restore_and_follow_the_next_run(
    loaded_backups: Backups, build: Callable[[], None]
) -> None:
    """The same rows as before, and as many as the tape has once the next run has loaded the rest."""
    build()
    before = models(loaded_backups)
    assert before["ohlcv_1d"]
    assert loaded_backups.back_up().code == 0
    loaded_backups.lose_everything()
    assert loaded_backups.restore().code == 0
    build()
    assert models(loaded_backups) == before
    user = loaded_backups.user
    user.load(until=days_before_end(5))
    assert user.client.command("select count() from deribit.trades") == len(user.keys())
