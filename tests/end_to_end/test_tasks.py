"""The tasks of `.mise.toml` and the targets of the Makefile work from a shell with nothing exported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from extract.cli.main import command_names
from extract.clickhouse.client import open_client
from extract.paths import ROOT
from extract.sandbox.server import SandboxExchange
from tests.support.clickhouse import drop_project_databases
from tests.support.commands import TIMEOUT_S, UserShell
from tests.support.edge import Edge, needs_caddy


@pytest.fixture(scope="module")
def mise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mise program, installed or fetched with npm."""
    if program := shutil.which("mise"):
        return Path(program)
    if not shutil.which("npm"):
        pytest.skip("neither mise nor npm is here")
    home = tmp_path_factory.mktemp("mise")
    command = [
        "npm",
        "install",
        "--silent",
        "--no-audit",
        "--no-fund",
        "--prefix",
        str(home),
        "@jdxcode/mise",
    ]
    for _ in range(2):  # a stalled connection is retried once
        with suppress(subprocess.TimeoutExpired):
            if subprocess.run(command, capture_output=True, timeout=90).returncode == 0:
                return home / "node_modules/.bin/mise"
    pytest.skip("npm cannot fetch mise")


def mise_ok(mise: Path, shell: UserShell, tmp_path: Path, *words: str, **env: str) -> str:
    """Output of `mise WORDS`; raises AssertionError unless it succeeds."""
    done = run_mise(mise, shell, tmp_path, *words, **env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_mise(
    mise: Path, shell: UserShell, tmp_path: Path, *words: str, **env: str
) -> subprocess.CompletedProcess[str]:
    """`mise WORDS`, with mise's own files in the test's directory."""
    own = {
        "MISE_TRUSTED_CONFIG_PATHS": str(ROOT),
        "MISE_DATA_DIR": str(tmp_path / "mise"),
        "MISE_CACHE_DIR": str(tmp_path / "mise-cache"),
        "MISE_STATE_DIR": str(tmp_path / "mise-state"),
        "MISE_CONFIG_DIR": str(tmp_path / "mise-config"),
        "MISE_OFFLINE": "1",
    }
    # dbt parses the whole project again if the target differs from that of the command before.
    is_cloud = words[-1].startswith("cloud-") or env.get("CLICKHOUSE_MODE") == "cloud"
    own["DBT_TARGET_PATH"] = str(tmp_path / ("target-cloud" if is_cloud else "target-local"))
    return subprocess.run(
        [str(mise), *words],
        cwd=ROOT,
        env=shell.env | own | env,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


@pytest.mark.slow
def test_mise_lists_every_task_with_a_description(mise: Path, shell: UserShell, tmp_path: Path) -> None:
    """`mise tasks` parses the file."""
    tasks = json.loads(mise_ok(mise, shell, tmp_path, "tasks", "ls", "--json"))
    names = {"install", "up", "down", "demo", "run", "test", "local-init", "local-validate", "cloud-init"}
    names |= {"cloud-validate", "schema-align", "e2e-validate", "measure-volume"}
    names |= {"poc-backfill", "measure-baseline", "monitor-egress"}
    assert names <= {task["name"] for task in tasks}
    assert all(task["description"] for task in tasks)


@pytest.mark.slow
def test_exported_variables_override_those_of_mise(mise: Path, shell: UserShell, tmp_path: Path) -> None:
    """`tape up` in mise's environment uses the port that the user exported, not the default one."""
    output = mise_ok(mise, shell, tmp_path, "exec", "--", "tape", "up")
    assert f":{shell.env['CLICKHOUSE_LOCAL_PORT']} " in output
    assert "answers" in output


@pytest.mark.slow(minutes=6)
@needs_caddy
def test_tasks_of_both_targets_init_validate_and_align(
    mise: Path,
    shell: UserShell,
    tmp_path: Path,
    edge: Edge,
    exchange: SandboxExchange,
    drop_databases: Callable[[], None],
) -> None:
    """Both are created empty and equal, cloud loads a day of the exchange, and drift in cloud is detected."""
    drop_databases()
    with open_client(edge.clickhouse) as client:
        drop_project_databases(client)
    user = UserShell(shell.at(exchange).env | edge.env())
    for task in ("local-init", "cloud-init", "local-validate", "cloud-validate"):
        mise_ok(mise, user, tmp_path, "run", task)
    assert "local and cloud are aligned" in mise_ok(mise, user, tmp_path, "run", "schema-align")
    output = mise_ok(mise, user, tmp_path, "run", "e2e-validate", CLICKHOUSE_MODE="cloud")
    assert "new trades in" in output
    assert "\n0 new trades" not in output
    assert "local and cloud are aligned" in mise_ok(mise, user, tmp_path, "run", "schema-align")
    with open_client(edge.clickhouse) as client:
        client.command("alter table deribit.ohlcv_1h_versions add column planted UInt8")
        assert run_mise(mise, user, tmp_path, "run", "cloud-validate").returncode != 0
        done = run_mise(mise, user, tmp_path, "run", "schema-align")
        assert done.returncode != 0
        assert "planted" in done.stdout
        drop_project_databases(client)


@pytest.mark.slow
def test_mise_environment_locates_the_dbt_project(mise: Path, shell: UserShell, tmp_path: Path) -> None:
    """In mise's environment, `dbt` finds project and profile from the root of the checkout."""
    output = mise_ok(mise, shell, tmp_path, "run", "dbt", "ls", "--target", "local", "--select", "trades")
    assert "deribit_tape.marts.trades" in output


def test_make_without_target_prints_help(shell: UserShell) -> None:
    """`make` lists its targets."""
    done = subprocess.run(["make"], cwd=ROOT, env=shell.env, capture_output=True, text=True)
    assert done.returncode == 0
    for target in ("demo", "test", "up", "down", "run", "dbt"):
        assert f"make {target} " in done.stdout


@pytest.mark.slow
def test_commands_write_nothing_outside_of_the_checkout(shell: UserShell, tmp_path: Path) -> None:
    """In a plain shell, dlt and dbt write no telemetry ids, pipelines or profiles to the home directory."""
    home = tmp_path / "home"
    home.mkdir()
    plain = {"HOME": str(home)}
    shell.run("dlt", "pipeline", "--list-pipelines", **plain)
    shell.run("dlt", "pipeline", "run", "--currency", "BTC", **plain)
    shell.ok("dbt", "ls", "--target", "local", cwd=ROOT / "dbt_project", **plain)
    shell.run("tape", "down", **plain)
    assert list(home.iterdir()) == []


def test_commands_of_the_readme_exist() -> None:
    """Each `make` target and `tape` command of the README."""
    readme = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    targets = {line.split()[1] for line in _typed(readme, "make ")}
    assert targets
    assert all(f"\n{target}:" in makefile for target in targets), targets
    commands = {line.split()[1] for line in _typed(readme, "tape ")}
    assert commands
    assert commands <= set(command_names())


def _typed(readme: str, start: str) -> list[str]:
    """Lines of code blocks that begin with `start`."""
    lines = [
        line.strip().removeprefix(".venv/bin/") for line in readme.splitlines() if line.startswith("    ")
    ]
    return [line for line in lines if line.startswith(start)]


def test_nothing_names_a_package_registry() -> None:
    """No file in git contains the host of a registry."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    hosts = ("pypi" + ".org", "python" + "hosted", "registry.npm" + "js", "deb.debian" + ".org")
    names = [
        (name, host)
        for name in files
        for host in hosts
        if os.path.isfile(ROOT / name) and host in (ROOT / name).read_text(errors="replace")
    ]
    assert names == []
