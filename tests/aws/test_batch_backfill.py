"""The Batch job of the backfill as a container runs it: interrupted by SIGTERM, killed, and next to an increment."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client

from extract.paths import ROOT
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from tests.aws.conftest import Machine, Subscriber
from tests.aws.test_lambda_increment import SLOW, SMALL
from tests.support.edge import needs_caddy
from tests.support.small_windows import keys_in, keys_of, packages_in

pytestmark = needs_caddy
WORDS = ("--since", "2016-01-01", "--currency", "BTC")


@pytest.fixture
def exchange(machine: Machine, start_exchange: Callable[..., SandboxExchange], tape: Tape) -> SandboxExchange:
    """A slow exchange for the machine's jobs, which use small windows."""
    running = start_exchange(tape, faults=SLOW.format(0.5))
    machine.at(running, **SMALL)
    return running


def wait_for_pages(process: subprocess.Popen[str], exchange: SandboxExchange, pages: int = 25) -> None:
    """Wait until `pages` pages were requested."""
    deadline_s = time.monotonic() + 60
    while sum("get_last_trades" in each.path for each in exchange.requests) < pages:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@pytest.mark.slow
def test_job_interrupted_by_sigterm_resumes(
    machine: Machine, exchange: SandboxExchange, cloud: Client, tape: Tape, tmp_path: Path
) -> None:
    """A Spot interruption loses no trade; an increment reports busy while the job runs. Each attempt publishes its load."""
    queue = Subscriber()
    machine.env["TAPE_LOADS_TOPIC"] = queue.topic
    job = machine.job(*WORDS, TMPDIR=str(tmp_path))  # of another machine than the function's
    wait_for_pages(job, exchange)
    with machine.function() as function:
        busy = function.invoke()
    assert busy["status"] == "busy"
    assert "(batch " in busy["notes"][0]
    job.send_signal(signal.SIGTERM)
    done = machine.ended(job)
    assert (done.code, "Stopped on SIGTERM with more to do" in done.out) == (143, True), done.out
    assert 0 < len(keys_in(cloud)) < len(keys_of(tape))
    exchange.faults = type(exchange.faults)()
    again = machine.ended(machine.job(*WORDS))
    assert again.code == 0, again.out
    assert keys_in(cloud) == keys_of(tape)
    assert packages_in(cloud) > 3
    interrupted, completed = queue.receive()
    assert (interrupted["status"], completed["status"]) == ("more", "done")
    assert interrupted["trades"] + completed["trades"] == len(keys_of(tape))


@pytest.mark.slow
def test_killed_job_loses_no_trade(
    machine: Machine, exchange: SandboxExchange, cloud: Client, tape: Tape
) -> None:
    """The next attempt of the same job, on another machine, loads every trade once."""
    job = machine.job(*WORDS, AWS_BATCH_JOB_ID="4711")
    wait_for_pages(job, exchange)
    files = secret_files(machine)
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE(files[0].parent.stat().st_mode) == 0o700
    listed = Path(f"/proc/{job.pid}/environ").read_text() + Path(f"/proc/{job.pid}/cmdline").read_text()
    assert not [canary for canary in machine.canaries[:3] if canary in listed]
    job.kill()
    assert machine.ended(job).code == -signal.SIGKILL
    exchange.faults = type(exchange.faults)()
    again = machine.ended(machine.job(*WORDS, AWS_BATCH_JOB_ID="4711"))
    assert again.code == 0, again.out
    assert keys_in(cloud) == keys_of(tape)
    assert os.listdir(machine.tmp) == []


def secret_files(machine: Machine) -> list[Path]:
    """Files of the CA, certificate and key that a running job has written."""
    files = sorted((machine.tmp / "deribit-tape").glob("*.pem"))
    assert len(files) == 3
    return files


@pytest.mark.slow
@pytest.mark.process
def test_missing_secret_is_one_sentence_and_exit_code_3(aws_env: dict[str, str], tmp_path: Path) -> None:
    """No traceback; the exit code is the project's."""
    env = {name: value for name, value in os.environ.items() if name != "TAPE_SECRET_ID"}
    command = [sys.executable, "-m", "extract.aws.batch_backfill", "--since", "2016-01-01"]
    done = subprocess.run(
        command, cwd=ROOT, env=env | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 3
    assert done.stderr == "TAPE_SECRET_ID is not set; it names the secret in AWS Secrets Manager.\n"
    assert list(tmp_path.iterdir()) == []
