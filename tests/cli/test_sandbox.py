"""`tape sandbox` as a process: start, stop by signal, and errors in one sentence."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from tests.support.commands import BIN

pytestmark = pytest.mark.process

COMMAND = [str(BIN / "tape"), "sandbox"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_sandbox_answers_once_it_prints_ready_and_stops_on_a_signal(stop: signal.Signals) -> None:
    """It prints both URLs, the variables to set, then `ready URL`; exit code 0 on either signal."""
    process = subprocess.Popen(
        [*COMMAND, "--port", "0", "--trades", "300", "--days", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        lines: list[str] = []
        while not lines or not lines[-1].startswith("ready "):
            line = process.stdout.readline()
            assert line, process.stderr.read()
            lines.append(line.strip())
        url = lines[-1].removeprefix("ready ")
        assert httpx.get(f"{url}/public/test", timeout=60).status_code == 200
        text = "\n".join(lines)
        assert f"SOURCES__DERIBIT__API_URL={url}" in text
        assert f"SOURCES__DERIBIT__HISTORY_URL={url.replace('/api', '/history/api')}" in text
        process.send_signal(stop)
        assert process.wait(timeout=15) == 0
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate()


def test_port_in_use_is_one_sentence(small_tape: Tape) -> None:
    """Exit code 4."""
    with SandboxExchange(small_tape) as exchange:
        done = run("--port", str(exchange.port), "--trades", "10")
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)
    assert f"Port {exchange.port} is in use" in done.stderr


def test_malformed_input_is_one_sentence(tmp_path: Path) -> None:
    """Exit code 3: a missing tape, a malformed tape, an unknown fault."""
    bad = tmp_path / "bad.ndjson"
    bad.write_text("no json\n")
    for arguments in (("--tape", str(tmp_path / "none")), ("--tape", str(bad)), ("--faults", "3:foo")):
        done = run(*arguments)
        assert (done.returncode, done.stderr.count("\n")) == (3, 1), done.stderr
