"""An embedded engine that crashes is restarted by its supervisor, unless it crashes repeatedly."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from extract.clickhouse.embedded import server
from harness.processes import children
from tests.support.attacker import Attacker, Target, target_server
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.clickhouse, pytest.mark.usefixtures("unharmed")]


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_engine_that_crashes_is_restarted_with_its_data(tmp_path: Path, number: signal.Signals) -> None:
    """The supervisor stays, prints the signal, and the new engine accepts the same users."""
    with target_server(tmp_path) as target:
        supervisor, engine = target.supervisor_pid, target.engine_pid
        os.kill(engine, number)
        wait_until(lambda: children(supervisor) not in ([], [engine]))
        wait_until(lambda: _query_or_empty(target.attacker("reader")) == "row")
        assert target.supervisor_pid == supervisor
        assert f"ClickHouse was killed by {number.name}; restarting it." in target.home.output.read_text()
        assert "disabled" in target.attacker("reader").query(f"SELECT file('{target.canary}')")
        wait_until(lambda: not list((target.home.path / "run").rglob("*.*")))  # the FIFOs of the start


def test_engine_that_crashes_repeatedly_stays_down(tmp_path: Path) -> None:
    """After the fifth crash within a minute the supervisor ends too, and `up` starts a new server."""
    with target_server(tmp_path) as target:
        supervisor = target.supervisor_pid
        for crash in range(1, 6):
            wait_until(lambda: _query_or_empty(target.attacker("reader")) == "row")
            os.kill(children(supervisor)[0], signal.SIGKILL)
            wait_until(lambda: target.home.output.read_text().count("was killed by SIGKILL") == crash)  # noqa: B023
        wait_until(lambda: target.home.server_pid() is None)
        assert "not restarting, it has crashed too often" in target.home.output.read_text()
        assert server.up(target.settings, tmp_path).state is server.State.STARTED


def test_engine_starts_with_its_whole_environment(target: Target) -> None:
    """Nothing is added to the environment after the start, because the engine then reads past its end and crashes."""
    variables = Path(f"/proc/{target.engine_pid}/environ").read_text().split("\0")
    assert f"TMPDIR={target.home.path / 'tmp'}" in variables
    assert "PYTHONCOERCECLOCALE=0" in variables


def _query_or_empty(attacker: Attacker) -> str:
    try:
        return attacker.query("SELECT x FROM deribit_raw.t")
    except OSError:
        return ""
