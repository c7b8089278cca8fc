"""Commands in the background: started once, found by their lock, stopped by `tape down`."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from extract.background import NAMES, BackgroundCommand, stop_all
from extract.errors import OutsideError, UsageError

pytestmark = pytest.mark.process

OPTIONS = ("--port", "0", "--trades", "50", "--days", "1")


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[BackgroundCommand]:
    """A sandbox exchange in the background of an empty TAPE_DIR."""
    command = BackgroundCommand(tmp_path, "sandbox")
    command.start(*OPTIONS, env=os.environ)
    command.ready_url()
    yield command
    command.stop()


def test_command_runs_until_all_are_stopped(sandbox: BackgroundCommand, tmp_path: Path) -> None:
    """It answers, its process id is recorded, and stopping all commands ends it and names it."""
    url = sandbox.ready_url()
    assert httpx.get(f"{url}/public/test", timeout=60).status_code == 200
    assert sandbox.pid is not None
    os.kill(sandbox.pid, 0)
    assert stop_all(tmp_path) == ["sandbox"]
    assert sandbox.pid is None
    assert stop_all(tmp_path) == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/public/test", timeout=60)


def test_second_start_is_refused(sandbox: BackgroundCommand) -> None:
    """One sentence with the command that stops the first one, which continues."""
    with pytest.raises(
        UsageError, match="`tape sandbox` is running in the background: stop it with: make down"
    ):
        sandbox.start(*OPTIONS, env=os.environ)
    assert httpx.get(f"{sandbox.ready_url()}/public/test", timeout=60).status_code == 200


def test_killed_command_can_be_started_again(sandbox: BackgroundCommand) -> None:
    """After kill -9 its lock is free, whatever the file contains."""
    pid = sandbox.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert sandbox.pid is None
    assert not sandbox.stop()
    sandbox.start(*OPTIONS, env=os.environ)
    sandbox.ready_url()
    assert sandbox.pid not in (None, pid)


def test_command_that_ends_at_once_is_reported(tmp_path: Path) -> None:
    """With the last line of its output and the name of its log."""
    command = BackgroundCommand(tmp_path, "sandbox")
    command.start("--faults", "3:foo", env=os.environ)
    with pytest.raises(OutsideError, match=r"`tape sandbox` has ended: .*foo.*sandbox\.log"):
        command.ready_url()


def test_nothing_runs_in_an_empty_directory(tmp_path: Path) -> None:
    """Neither a question nor a stop creates anything."""
    assert [BackgroundCommand(tmp_path, name).pid for name in NAMES] == [None, None, None]
    assert stop_all(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
