"""The workflow of GitHub Actions: what can be known of it without GitHub."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from extract.cli.main import command_names
from extract.paths import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
OURS = {"make", "tape"}


def load(path: Path) -> dict[str, Any]:
    # YAML 1.1 takes the key `on` for a boolean.
    return yaml.load(path.read_text(), Loader=yaml.BaseLoader)


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.name)
def workflow(request: pytest.FixtureRequest) -> dict[str, Any]:
    return load(request.param)


def test_there_is_one() -> None:
    assert WORKFLOWS


def test_actions_are_pinned_to_a_commit(workflow: dict[str, Any]) -> None:
    """A tag can be moved."""
    used = [step["uses"] for step in steps(workflow) if "uses" in step]
    assert used
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", each) for each in used), used


def test_it_may_read_the_code_and_nothing_else(workflow: dict[str, Any]) -> None:
    """No job asks for more, no checkout leaves its token behind, and nothing runs with a fork's code and our secrets."""
    assert workflow["permissions"] == {"contents": "read"}
    assert not [name for name, job in workflow["jobs"].items() if "permissions" in job]
    assert "pull_request_target" not in workflow["on"]
    checkouts = [step for step in steps(workflow) if step.get("uses", "").startswith("actions/checkout@")]
    assert all(step["with"]["persist-credentials"] == "false" for step in checkouts)


def test_each_job_ends(workflow: dict[str, Any]) -> None:
    assert all(int(job["timeout-minutes"]) <= 60 for job in workflow["jobs"].values())


def test_secrets_are_in_the_environment_of_single_steps_and_not_on_pull_requests(
    workflow: dict[str, Any],
) -> None:
    """Neither in a command, where a process list shows them, nor in a job that a fork can start."""
    for job in workflow["jobs"].values():
        if "secrets." not in str(job):
            continue
        assert "github.event_name != 'pull_request'" in job["if"]
        assert "secrets." not in str(job.get("env", {}))
        assert not [step for step in job["steps"] if "secrets." in step.get("run", "")]


def test_make_test_and_the_schema_tests_are_run() -> None:
    """On every push; the check against cloud in a job of its own, where the secrets are."""
    jobs = load(ROOT / ".github/workflows/test.yml")["jobs"]
    schema = "--select test_name:matches_declared_schema"
    ran = {name: "\n".join(step.get("run", "") for step in job["steps"]) for name, job in jobs.items()}
    assert "make test\n" in ran["test"]
    assert f"test --target local {schema}" in ran["test"]
    assert f"test --target cloud {schema}" in ran["cloud-schema"]
    assert "CLICKHOUSE_CLOUD_PASSWORD" in str(jobs["cloud-schema"])


def test_every_command_exists_and_every_script_parses(workflow: dict[str, Any]) -> None:
    """`make` targets are in the Makefile, `tape` commands in the command line; bash takes each script."""
    makefile = (ROOT / "Makefile").read_text()
    found = set()
    for step in steps(workflow):
        script = step.get("run", "")
        assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
        for line in script.splitlines():
            words = line.strip().removeprefix(".venv/bin/").split()
            if words and words[0] in OURS:
                found.add(words[0])
                known = f"\n{words[1]}:" in makefile if words[0] == "make" else words[1] in command_names()
                assert known, line
    assert found
