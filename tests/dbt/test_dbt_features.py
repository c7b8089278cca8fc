"""Schemas, aliases, --empty, --defer, clone and retry of dbt, on a database that is in use."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from dbt.cli.main import dbtRunner

from extract.clickhouse.refresh import refresh
from extract.errors import FinalError
from harness import raw_tables
from harness.dbt_project import TABLES, Project, copy_project, failures, run_words
from tests.dbt.test_model_truth import LOADS, trade
from tests.support.candle_truth import assert_true

pytestmark = pytest.mark.slow(minutes=1)  # each test parses the project for another target


def states(dbt: Project) -> list[dict[str, object]]:
    """Definition and number of rows, unmerged, of every table and view of the models."""
    return dbt.rows(
        "SELECT name, create_table_query, total_rows FROM system.tables WHERE database = 'deribit' ORDER BY name"
    )


@pytest.fixture
def loaded(dbt: Project) -> Project:
    dbt.empty()
    for load_id, trades in LOADS.items():
        raw_tables.load(dbt.client, load_id, trades)
        refresh(dbt.database)
    return dbt


def test_empty_run_changes_nothing_in_use(loaded: Project) -> None:
    """Neither the tables nor the views; a load after it is refreshed."""
    before = states(loaded)
    loaded.run("--empty")
    loaded.run("--empty", "--full-refresh", "--select", "trade_versions")
    assert states(loaded) == before
    late = {"1764000009.5": [trade(seq=900)]}
    raw_tables.load(loaded.client, "1764000009.5", late["1764000009.5"])
    refresh(loaded.database)
    assert_true(loaded, LOADS | late)


@pytest.mark.heavy
def test_retry_completes_a_failed_run(loaded: Project) -> None:
    """After a table had another column for a while, the nodes that failed and those after them are run."""
    loaded.client.command("TRUNCATE TABLE deribit.instrument_ends")
    loaded.client.command("ALTER TABLE deribit.ohlcv_1h_versions RENAME COLUMN open TO first_price")
    assert "ohlcv_1h_versions" in failures(loaded.invoke("run"))
    loaded.client.command("ALTER TABLE deribit.ohlcv_1h_versions RENAME COLUMN first_price TO open")
    loaded.must("retry")
    assert_true(loaded, LOADS)


@pytest.mark.parametrize(
    ("table", "damage", "difference", "mend"),
    [
        (
            "touched_minutes",
            "DROP COLUMN settlement_currency",
            "column settlement_currency is missing",
            "dbt build --full-refresh",
        ),
        (
            "moved_trades",
            "ADD COLUMN note String",
            "column note is not declared",
            "drop table deribit.moved_trades",
        ),
    ],
)
def test_table_of_another_version_of_its_model_is_refused(
    loaded: Project, table: str, damage: str, difference: str, mend: str
) -> None:
    """A changed model does not get its view, so that loads keep refreshing the table as it is."""
    loaded.client.command(f"ALTER TABLE deribit.{table} {damage}")
    loaded.client.command(f"DROP VIEW deribit.refresh_{table}")
    message = failures(loaded.invoke("run", "--select", table))[table]
    assert f"deribit.{table} is not the table of its model: {difference}" in message, message
    assert mend in message
    if mend.startswith("drop"):
        loaded.client.command(mend)
    else:
        loaded.must("build", "--full-refresh", "--select", table)
    loaded.must("build")
    assert_true(loaded, LOADS)


def test_refresh_view_that_was_dropped_is_created_again(loaded: Project) -> None:
    before = states(loaded)
    loaded.client.command("DROP VIEW deribit.refresh_ohlcv_1h_versions")
    loaded.run("--select", "ohlcv_1h_versions")
    assert {row["name"] for row in states(loaded)} == {row["name"] for row in before}


def test_refresh_without_one_of_its_views_is_refused(loaded: Project) -> None:
    """By the loader and by dbt, if it does not create the view again: the package would count as consumed."""
    late = {"1764000009.5": [trade(seq=900)]}
    raw_tables.load(loaded.client, "1764000009.5", late["1764000009.5"])
    for view in ("refresh_ohlcv_1h_versions", "refresh_moved_rows"):
        loaded.client.command(f"DROP VIEW deribit.{view}")
        with pytest.raises(FinalError, match=rf"There is no view deribit\.{view}, .*; run: dbt build"):
            refresh(loaded.database, ["1764000009.5"])
        message = failures(loaded.invoke("run", "--select", "consumed_loads"))["consumed_loads"]
        assert f"There is no view deribit.{view}, " in message
        assert loaded.rows("SELECT load_id FROM deribit.pending_loads") == [{"load_id": "1764000009.5"}]
        loaded.run("--select", view.removeprefix("refresh_") if "ohlcv" in view else view)
    refresh(loaded.database)
    assert_true(loaded, LOADS | late)


def test_deferred_and_cloned_models_do_not_write_to_those_in_use(loaded: Project, tmp_path: Path) -> None:
    """Two models in the schema of target ci that read all others from `deribit`; then clones, and a build over them."""
    state = shutil.copytree(loaded.scratch / "target", tmp_path / "state")
    loaded.run(*TABLES)  # records what it has compared
    before = states(loaded)
    loaded.client.command("DROP DATABASE IF EXISTS deribit_ci SYNC")
    ci = Project(loaded.client, tmp_path, target="ci")
    try:
        ci.must("build", "--select", "trade_versions", "trades", "--defer", "--state", str(state))
        assert states(loaded) == before
        ci.must("clone", "--state", str(state))
        ci.must("build")
        assert states(loaded) == before
        count = "SELECT count() AS n FROM {}.ohlcv_1mo"
        assert ci.rows(count.format("deribit_ci")) == ci.rows(count.format("deribit"))
        loaded.client.command("TRUNCATE TABLE deribit.loaded_seqs")
        before = states(loaded)
        ci.must("build", "--select", "consumed_loads", "--defer", "--favor-state", "--state", str(state))
        assert states(loaded) == before
    finally:
        loaded.client.command("DROP DATABASE deribit_ci SYNC")


def test_schema_and_alias_of_models_do_not_stop_the_refresh(dbt: Project, tmp_path: Path) -> None:
    """Marts in another schema and a table with an alias: the loader and dbt refresh them."""
    dbt.fresh()
    copy = copy_project(tmp_path)
    settings = copy / "dbt_project.yml"
    settings.write_text(settings.read_text().replace("    marts:\n", "    marts:\n      +schema: marts\n"))
    hours = copy / "models/internal/candles/ohlcv_1h_versions.sql"
    hours.write_text(hours.read_text().replace("config(", "config(alias='hours', ", 1))
    project = Project(dbt.client, tmp_path, project_dir=copy)
    try:
        log = copy / "models/internal/refresh_log.sql"
        original = log.read_text()
        log.write_text(original.replace("config(", "config(alias='portions', ", 1))
        refused = dbtRunner().invoke(run_words("run", tmp_path, project=copy))
        assert "refresh_log has to be deribit.refresh_log, where the loader reads it" in str(
            refused.exception
        )
        log.write_text(original)
        project.run()
        first, second = [trade(seq=seq) for seq in range(1, 50)], [trade(seq=seq) for seq in range(50, 100)]
        raw_tables.load(dbt.client, "1764000001.5", first)
        refresh(dbt.database)
        raw_tables.load(dbt.client, "1764000002.5", second)
        project.must("build")
        trades = project.rows("SELECT count() AS n FROM deribit_marts.trades")
        assert trades == project.rows("SELECT count() AS n FROM deribit.trade_versions") == [{"n": 99}]
        for level in ("1m", "1h", "1mo"):
            assert project.rows(f"SELECT sum(trade_count) AS n FROM deribit_marts.ohlcv_{level}") == trades
        assert project.rows("SELECT sum(trade_count) AS n FROM deribit.hours FINAL") == trades
        compared = project.rows("SELECT DISTINCT model FROM deribit.verified_months")
        assert {"model": "ohlcv_1h_versions"} in compared
    finally:
        dbt.client.command("DROP DATABASE IF EXISTS deribit_marts SYNC")
