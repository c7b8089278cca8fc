"""Every check has a runbook and a line in the table of docs/health.md, and neither page names another one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from extract.cli.main import command_names
from extract.health.thresholds import limit_fields
from extract.paths import ROOT

RUNBOOKS = (ROOT / "docs" / "runbooks.md").read_text()
SECTIONS = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", RUNBOOKS, re.MULTILINE | re.DOTALL))


def test_each_check_has_a_runbook() -> None:
    """In the order in which `tape health` prints them."""
    assert list(SECTIONS) == list(limit_fields())


@pytest.mark.parametrize("name", limit_fields())
def test_runbook_explains_and_names_a_command(name: str) -> None:
    """What the check means, what to do, and at least one command or table to look at."""
    meaning, _, remedy = SECTIONS[name].partition("**What to do.**")
    assert "**Meaning.**" in meaning
    assert len(remedy.split()) >= 12
    assert "`" in remedy


def test_commands_of_the_runbooks_exist() -> None:
    assert set(re.findall(r"`tape ([a-z-]+)", RUNBOOKS)) <= set(command_names())


@pytest.mark.parametrize("page", ["health.md"])
def test_table_lists_each_check_with_its_option(page: str) -> None:
    text = (ROOT / "docs" / Path(page)).read_text()
    rows = dict(re.findall(r"^\| (\S+) \| .* \| `(--[^`]*)`", text, re.MULTILINE))
    assert list(rows) == list(limit_fields())
    assert [name for name, option in rows.items() if not option.startswith(f"--{name} ")] == []
