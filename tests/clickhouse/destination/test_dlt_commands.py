"""Commands of dlt import the destination by name and find the server by environment variables."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import dlt
import pytest

from extract.clickhouse.destination import tape_clickhouse
from extract.clickhouse.settings import ClickHouseSettings

NAME = "extract.clickhouse.destination.factory.tape_clickhouse"


@pytest.fixture
def loaded(clickhouse_env: ClickHouseSettings, database: str, tmp_path: Path) -> Path:
    """Working directories of a pipeline after a load, with a password only in the environment."""
    pipelines_dir = tmp_path / "pipelines"
    pipeline = dlt.pipeline(
        "trades", destination=tape_clickhouse(), dataset_name=database, pipelines_dir=str(pipelines_dir)
    )
    pipeline.run([{"id": 1}], table_name="trades")
    return pipelines_dir


def dlt_command(pipelines_dir: Path, *arguments: str) -> str:
    """Standard output of `dlt pipeline trades …`, run in a directory without secrets.toml."""
    done = subprocess.run(
        [Path(sys.executable).with_name("dlt"), "-y", "pipeline", "--pipelines-dir", pipelines_dir, "trades", *arguments],
        cwd=pipelines_dir, env={**os.environ, "RUNTIME__DLTHUB_TELEMETRY": "false"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_info_names_the_destination(loaded: Path, database: str) -> None:
    output = dlt_command(loaded, "info")
    assert f"destination_type: {NAME}" in output
    assert f"dataset_name: {database}" in output


@pytest.mark.slow
def test_drop_drops_the_tables_of_a_resource(loaded: Path, database: str) -> None:
    dlt_command(loaded, "drop", "trades")
    pipeline = dlt.attach("trades", pipelines_dir=str(loaded))
    with pipeline.sql_client() as client:
        tables = {name for (name,) in client.execute_sql(f"SHOW TABLES FROM {database}")}
    assert tables == {"_dlt_loads", "_dlt_version", "_dlt_pipeline_state"}


def test_attached_pipeline_reads_the_dataset(loaded: Path, database: str) -> None:
    """It is attached from the local working directory, and with the state from the destination only."""
    assert dlt.attach("trades", pipelines_dir=str(loaded)).dataset().trades.arrow().num_rows == 1
    elsewhere = dlt.attach(
        "trades", destination=NAME, dataset_name=database, pipelines_dir=str(loaded / "elsewhere")
    )
    assert elsewhere.default_schema.data_table_names() == ["trades"]


def test_no_secret_is_written(loaded: Path, clickhouse: ClickHouseSettings) -> None:
    """dlt's state and traces contain no password."""
    files = [path for path in loaded.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if clickhouse.password.encode() in path.read_bytes()] == []


def test_missing_variable_is_named(loaded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the variable instead of dlt's secrets.toml."""
    monkeypatch.setenv("CLICKHOUSE_MODE", "cloud")
    monkeypatch.delenv("CLICKHOUSE_CLOUD_HOST", raising=False)
    pipeline = dlt.attach("trades", pipelines_dir=str(loaded))
    with pytest.raises(Exception, match="CLICKHOUSE_CLOUD"), pipeline.sql_client():
        pass
