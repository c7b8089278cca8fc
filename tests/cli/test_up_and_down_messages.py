"""`tape up` and `tape down` as a user types them."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner

from extract.cli.main import tape
from extract.clickhouse.embedded.probe import free_port
from extract.errors import UsageError


@pytest.fixture
def run(monkeypatch, own_dir):
    """Runs a command against an empty TAPE_DIR and a free port; returns what it prints."""
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


def test_up_and_down_say_in_a_line_what_they_did(run):
    up = r"ClickHouse 26\.9\.\S+ is {}up at http://localhost:\d+ \(user tape, data in \S+/clickhouse\)\n"
    assert re.match(up.format(""), run("up"))
    assert re.match(up.format("already "), run("up"))
    assert re.fullmatch(r"ClickHouse stopped cleanly after \d+\.\d s; its data stays\.\n", run("down"))
    assert run("down") == "No ClickHouse started by `tape up` is running.\n"


def test_somebody_elses_server_is_named_as_such(run, clickhouse_env, own_dir, monkeypatch):
    monkeypatch.setenv("TAPE_DIR", str(own_dir))
    assert run("up").endswith("it was not started by `tape up`, so it is used as it is and never stopped.\n")


def test_a_port_that_is_none_is_the_users_mistake(run, monkeypatch):
    monkeypatch.setenv("CLICKHOUSE_LOCAL_TCP_PORT", "nine")
    with pytest.raises(UsageError, match="CLICKHOUSE_LOCAL_TCP_PORT is 'nine'"):
        run("up")
