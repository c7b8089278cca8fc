"""Messages of `tape up` and `tape down`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from extract.cli.main import tape
from extract.clickhouse.embedded.probe import free_port
from extract.clickhouse.settings import ClickHouseSettings
from extract.errors import UsageError

Run = Callable[[str], str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, own_dir: Path) -> Run:
    """Run a command with an empty TAPE_DIR and a free port; returns its output."""
    monkeypatch.setenv("TAPE_DIR", str(own_dir))
    monkeypatch.setenv("CLICKHOUSE_LOCAL_PORT", str(free_port()))
    monkeypatch.setenv("CLICKHOUSE_LOCAL_TCP_PORT", "0")
    for name in (
        "CLICKHOUSE_MODE",
        "CLICKHOUSE_LOCAL_HOST",
        "CLICKHOUSE_LOCAL_USER",
        "CLICKHOUSE_LOCAL_PASSWORD",
    ):
        monkeypatch.delenv(name, raising=False)
    return lambda name: CliRunner().invoke(tape, [name], catch_exceptions=False).output


def test_up_and_down_report_in_one_line(run: Run) -> None:
    """Version, address, user and directory; started, already up, stopped, not running."""
    up = r"ClickHouse 26\.9\.\S+ is {}up at http://127.0.0.1:\d+ \(user tape, data in \S+/clickhouse\)\n"
    assert re.match(up.format(""), run("up"))
    assert re.match(up.format("already "), run("up"))
    assert re.fullmatch(r"ClickHouse stopped cleanly after \d+\.\d s; its data stays\.\n", run("down"))
    assert run("down") == "No ClickHouse started by `tape up` is running.\n"


def test_up_uses_an_existing_server(
    run: Run, clickhouse_env: ClickHouseSettings, own_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that listens at the address is neither restarted nor stopped."""
    monkeypatch.setenv("TAPE_DIR", str(own_dir))
    assert run("up").endswith(
        "it was not started by `tape up`, so it is used without changes and never stopped.\n"
    )


def test_malformed_port_is_a_usage_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence names the variable."""
    monkeypatch.setenv("CLICKHOUSE_LOCAL_TCP_PORT", "nine")
    with pytest.raises(UsageError, match="CLICKHOUSE_LOCAL_TCP_PORT is 'nine'"):
        run("up")
