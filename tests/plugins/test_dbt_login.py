"""dbt, typed in a plain shell, logs in to the local target with the generated password, and sends it nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from extract.clickhouse.embedded import server
from extract.clickhouse.embedded.probe import free_port
from extract.clickhouse.settings import clickhouse_settings
from extract.paths import ROOT
from tests.support.squatter import squatting


@pytest.fixture
def plain_shell(own_dir: Path, tmp_path: Path) -> dict[str, str]:
    """An environment without a password."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("CLICKHOUSE_")}
    directories = {"DBT_TARGET_PATH": str(tmp_path / "target"), "DBT_LOG_PATH": str(tmp_path / "logs")}
    return bare | directories | {"TAPE_DIR": str(own_dir), "CLICKHOUSE_LOCAL_PORT": str(free_port())}


def show_user(env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    dbt = Path(sys.executable).parent / "dbt"
    command = [str(dbt), "show", "--target", "local", "--inline", "select currentUser() as login"]
    return subprocess.run(
        command, cwd=ROOT / "dbt_project", env=env, capture_output=True, text=True, timeout=180
    )


@pytest.mark.slow
def test_dbt_logs_in_with_the_generated_password(plain_shell: dict[str, str], own_dir: Path) -> None:
    """Also with localhost as the host and a proxy in the environment, and without the password in what dbt writes."""
    server.up(clickhouse_settings("local", plain_shell), own_dir)
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy"), "http://127.0.0.1:9")
    done = show_user(plain_shell | proxies | {"CLICKHOUSE_LOCAL_HOST": "localhost"})
    assert done.returncode == 0, done.stdout
    assert "tape" in done.stdout
    password = (own_dir / "password").read_bytes().strip()
    written = [
        path for name in ("target", "logs") for path in (own_dir.parent / name).rglob("*") if path.is_file()
    ]
    assert written
    assert [path for path in written if password in path.read_bytes()] == []


@pytest.mark.slow
def test_dbt_sends_the_password_to_no_other_server(plain_shell: dict[str, str], own_dir: Path) -> None:
    """One sentence, and the program at the port gets no credentials."""
    server.up(clickhouse_settings("local", plain_shell), own_dir)
    server.down(own_dir)
    with squatting(int(plain_shell["CLICKHOUSE_LOCAL_PORT"])) as squatter:
        done = show_user(plain_shell)
    assert done.returncode != 0
    assert "was not started by `tape up`, so it does not get the password" in done.stdout
    assert not [text for text in squatter.received if "Authorization" in text or "X-ClickHouse-Key" in text]
