"""The GitHub Actions workflows: permissions, pinned actions, secrets and commands."""

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
PROGRAMS = {"make", "tape"}


def load(path: Path) -> dict[str, Any]:
    # YAML 1.1 takes the key `on` for a boolean.
    return yaml.load(path.read_text(), Loader=yaml.BaseLoader)


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.name)
def workflow(request: pytest.FixtureRequest) -> dict[str, Any]:
    return load(request.param)


def test_actions_are_pinned_to_a_commit(workflow: dict[str, Any]) -> None:
    """A tag can be moved."""
    used = [step["uses"] for step in steps(workflow) if "uses" in step]
    assert used
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", each) for each in used), used


def test_workflow_has_read_permission_only(workflow: dict[str, Any]) -> None:
    """No job has more, no checkout persists its token, and no trigger gives a fork's code the secrets."""
    assert workflow["permissions"] == {"contents": "read"}
    assert not [name for name, job in workflow["jobs"].items() if "permissions" in job]
    assert "pull_request_target" not in workflow["on"]
    checkouts = [step for step in steps(workflow) if step.get("uses", "").startswith("actions/checkout@")]
    assert all(step["with"]["persist-credentials"] == "false" for step in checkouts)


def test_each_job_has_a_timeout(workflow: dict[str, Any]) -> None:
    assert all(int(job["timeout-minutes"]) <= 60 for job in workflow["jobs"].values())


def test_secrets_are_given_to_single_steps_and_never_to_pull_requests(
    workflow: dict[str, Any],
) -> None:
    """No command contains one, because process lists show commands, nor does a job that a fork can start."""
    for job in workflow["jobs"].values():
        if "secrets." not in str(job):
            continue
        assert "github.event_name != 'pull_request'" in job["if"]
        assert "secrets." not in str(job.get("env", {}))
        assert not [step for step in job["steps"] if "secrets." in step.get("run", "")]


def test_scripts_parse_and_name_existing_commands(workflow: dict[str, Any]) -> None:
    """`make` targets are in the Makefile, `tape` commands in the command line, and bash parses each script."""
    makefile = (ROOT / "Makefile").read_text()
    checked = set()
    for step in steps(workflow):
        script = step.get("run", "")
        assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
        for line in script.splitlines():
            words = line.strip().removeprefix(".venv/bin/").split()
            if words and words[0] in PROGRAMS:
                checked.add(words[0])
                known = f"\n{words[1]}:" in makefile if words[0] == "make" else words[1] in command_names()
                assert known, line
    assert checked
