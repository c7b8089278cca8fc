"""The dbt profile: local needs no variables; cloud names a missing one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.dbt_project import PROJECT_DIR

pytestmark = pytest.mark.process

CLOUD = {"CLICKHOUSE_CLOUD_HOST": "cloud.example", "CLICKHOUSE_CLOUD_PASSWORD": "a-secret-of-cloud"}


def dbt_parse(tmp_path: Path, target: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`dbt parse --target …` in a shell with no CLICKHOUSE_ variables but `env`."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("CLICKHOUSE_")}
    dbt = Path(sys.executable).parent / "dbt"
    command = [
        dbt,
        "parse",
        "--target",
        target,
        "--target-path",
        tmp_path / "target",
        "--log-path",
        tmp_path / "logs",
    ]
    return subprocess.run(
        command, cwd=PROJECT_DIR, env={**bare, **env}, capture_output=True, text=True, timeout=120
    )


@pytest.mark.slow
def test_local_target_needs_no_variables(tmp_path: Path) -> None:
    """dbt runs in dbt_project/ from a plain shell, without the variables of cloud."""
    result = dbt_parse(tmp_path, "local")
    assert result.returncode == 0, result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("missing", CLOUD)
def test_missing_cloud_variable_is_named(tmp_path: Path, missing: str) -> None:
    """The output names the variable and has no traceback."""
    result = dbt_parse(tmp_path, "cloud", **{name: value for name, value in CLOUD.items() if name != missing})
    assert result.returncode != 0
    assert missing in result.stdout
    assert "Traceback" not in result.stdout + result.stderr


@pytest.mark.slow
def test_artifacts_contain_no_secret(tmp_path: Path) -> None:
    """Neither password is in the files that dbt writes."""
    assert dbt_parse(tmp_path, "cloud", **CLOUD).returncode == 0
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if CLOUD["CLICKHOUSE_CLOUD_PASSWORD"].encode() in path.read_bytes()]
