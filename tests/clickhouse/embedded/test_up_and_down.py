"""`up` returns when ClickHouse answers, or raises an error of one sentence; `down` stops what `up` started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from extract.clickhouse.embedded import config, server
from extract.clickhouse.embedded.home import ServerHome
from extract.clickhouse.embedded.probe import Answer, free_port, probe
from extract.clickhouse.embedded.server import State
from extract.errors import FinalError, RetriableError, UsageError
from tests.support.embedded_server import ask
from tests.support.waiting import wait_until


def test_up_and_down_are_idempotent_and_data_survives(own_dir, settings):
    """up, up, down, down; after another up the rows are there."""
    assert server.up(settings, own_dir).state is State.STARTED
    assert server.up(settings, own_dir).state is State.ALREADY_UP
    _make_table(settings)
    assert server.down(own_dir).state is State.STOPPED
    assert server.down(own_dir).state is State.NOT_RUNNING
    assert probe(settings).answer is Answer.NOTHING
    assert server.up(settings, own_dir).state is State.STARTED
    assert ask(settings, "SELECT groupArray(a) FROM d.t") == "[1,2,3]"


def test_data_survives_kill_9(own_dir, settings):
    """The lock is released with the process, so the stale pid in its file is ignored; complete inserts are there."""
    server.up(settings, own_dir)
    _make_table(settings)
    os.kill(_pid(own_dir), signal.SIGKILL)
    # A killed process closes its listeners before it releases the lock.
    wait_until(lambda: ServerHome(own_dir).server_pid() is None, 10.0)
    assert server.down(own_dir).state is State.NOT_RUNNING
    assert server.up(settings, own_dir).state is State.STARTED
    assert ask(settings, "SELECT groupArray(a) FROM d.t") == "[1,2,3]"


def test_process_with_a_recycled_pid_is_not_killed(own_dir):
    """The lock file names the pid of another program; without the lock it is not a server."""
    (own_dir / "clickhouse").mkdir(parents=True)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"]) as stranger:
        (own_dir / "clickhouse" / "server.lock").write_text(f"{stranger.pid}\n")
        assert server.down(own_dir).state is State.NOT_RUNNING
        assert stranger.poll() is None
        stranger.kill()


def test_concurrent_ups_start_one_server(own_dir, settings):
    """One starts it, the other reports that it is up already."""
    with ThreadPoolExecutor(2) as pool:
        states = list(pool.map(lambda _: server.up(settings, own_dir).state, range(2)))
    assert sorted(state.name for state in states) == ["ALREADY_UP", "STARTED"]


def test_down_without_a_server(own_dir):
    assert server.down(own_dir).state is State.NOT_RUNNING


def test_external_server_is_used_and_never_stopped(own_dir, clickhouse):
    """`up` of another TAPE_DIR uses the server that already listens; its `down` does not stop it."""
    assert server.up(clickhouse, own_dir).state is State.EXTERNAL
    assert server.down(own_dir).state is State.NOT_RUNNING
    assert ask(clickhouse, "SELECT 1") == "1"


def test_wrong_password_of_an_external_server(own_dir, clickhouse):
    with pytest.raises(
        UsageError, match="not started by `tape up` and rejects user tape: set CLICKHOUSE_LOCAL_USER"
    ):
        server.up(replace(clickhouse, password="wrong"), own_dir)


def test_changed_password_of_a_running_server(own_dir, settings):
    """The error names the commands that make the new password effective."""
    server.up(settings, own_dir)
    with pytest.raises(UsageError, match=r"another user or password .*: run `make down`, then `make up`"):
        server.up(replace(settings, password="new"), own_dir)
    server.down(own_dir)
    assert server.up(replace(settings, password="new"), own_dir).state is State.STARTED


def test_changed_port_of_a_running_server(own_dir, settings):
    server.up(settings, own_dir)
    with pytest.raises(UsageError, match=r"does not answer at .*: run `make down`"):
        server.up(replace(settings, port=free_port()), own_dir)


def test_port_taken_by_a_silent_listener(own_dir, settings, monkeypatch):
    """It accepts connections and sends nothing."""
    monkeypatch.setattr(server, "probe", lambda settings: probe(settings, timeout_s=0.3))
    with (
        socket.create_server(("127.0.0.1", settings.port)),
        pytest.raises(
            FinalError, match=f"Port {settings.port} .* is in use by a server that is not ClickHouse"
        ),
    ):
        server.up(settings, own_dir)


def test_port_taken_by_another_web_server(own_dir, settings):
    """It answers every request, and never receives the password."""
    with (
        _web_server(settings.port) as seen,
        pytest.raises(
            FinalError, match="a server that is not ClickHouse: stop it, or set CLICKHOUSE_LOCAL_PORT"
        ),
    ):
        server.up(settings, own_dir)
    assert seen
    assert not any(headers.get("Authorization") for headers in seen)


@pytest.mark.parametrize(
    ("users", "reason"),
    [
        (
            "<clickhouse><users><default/></users></clickhouse>",
            r"Code: 36\. DB::Exception: At least one auth.*",
        ),
        ("<clickhouse><users>", "no error message, exit code .*"),
    ],
)
def test_failed_start_reports_the_last_error(own_dir, settings, monkeypatch, users, reason):
    """The engine rejects the configuration, and no process is left running."""
    monkeypatch.setattr(config, "users_xml", lambda settings, passwords: users)
    with pytest.raises(FinalError, match=f"^ClickHouse stopped while starting: {reason} \\(full log: .*\\)$"):
        server.up(settings, own_dir)
    assert server.down(own_dir).state is State.NOT_RUNNING


def test_server_that_does_not_answer_in_time_is_stopped(own_dir, settings):
    with pytest.raises(RetriableError, match="does not answer at"):
        server.up(settings, own_dir, timeout_s=0.01)
    assert server.down(own_dir).state is State.NOT_RUNNING


def test_disk_full(own_dir, settings):
    with pytest.raises(FinalError, match=r"is full \(\d+ MiB left\): free some space, or set TAPE_DIR"):
        server.up(settings, own_dir, min_free_bytes=2**62)


def test_unusable_directory_is_a_usage_error(tmp_path, settings):
    (tmp_path / "tape").write_text("a file")
    with pytest.raises(UsageError, match=r"cannot be used .*: set TAPE_DIR"):
        server.up(settings, tmp_path / "tape")


@pytest.mark.parametrize("user", ["default", "my user", "a<b", ""])
def test_invalid_user_name_is_a_usage_error(own_dir, settings, user):
    with pytest.raises(UsageError, match="CLICKHOUSE_LOCAL_USER is"):
        server.up(replace(settings, user=user), own_dir)


def test_server_is_started_on_loopback_only(own_dir, settings):
    """The development password is public, so only this machine may connect."""
    with pytest.raises(UsageError, match=r"0.0.0.0 is not a loopback address"):
        server.up(replace(settings, host="0.0.0.0"), own_dir)
    assert not (own_dir / "clickhouse").exists()


def test_native_protocol_is_off_if_its_port_is_in_use(own_dir, settings):
    tcp_port = free_port()
    with socket.create_server(("127.0.0.1", tcp_port)):
        assert f"port {tcp_port} is in use" in server.up(settings, own_dir, tcp_port=tcp_port).note
    server.down(own_dir)
    assert "in use" not in server.up(settings, own_dir, tcp_port=tcp_port).note
    socket.create_connection(("127.0.0.1", tcp_port), timeout=5).close()


def test_down_kills_a_server_that_does_not_stop(own_dir, settings):
    server.up(settings, own_dir)
    pid = _pid(own_dir)
    os.kill(pid, signal.SIGSTOP)
    assert server.down(own_dir, timeout_s=0.3).state is State.KILLED


@pytest.mark.clickhouse
def test_embedded_server_ends_with_its_parent_process(tmp_path):
    """The server ends even if the parent is killed, as a test run may be."""
    program = (
        "import sys, time; from pathlib import Path; from extract.clickhouse.embedded.server import embedded_server\n"
        "with embedded_server(Path(sys.argv[1])) as up: print(up.port, flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert int(holder.stdout.readline()) > 0
        home = server.ServerHome(tmp_path)
        assert home.server_pid() is not None
        holder.kill()
    wait_until(lambda: home.server_pid() is None, 10.0)


def test_logs_are_rotated_by_size(own_dir, settings, monkeypatch):
    """However many errors are logged, there are only a few files of a bounded size."""
    monkeypatch.setattr(config, "LOG_FILE_BYTES", 20_000)
    server.up(settings, own_dir)
    for _ in range(150):  # 3 KB of stack trace each: more than 20 files' worth
        ask(settings, "SELECT throwIf(1, 'noise')")
    sizes = [path.stat().st_size for path in (own_dir / "log").glob("clickhouse.err.log*")]
    assert 2 <= len(sizes) <= 10
    assert sum(sizes) < 100_000


def test_query_logs_of_earlier_servers_are_deleted(own_dir, settings):
    """The engine never reads them again, so the next start deletes them."""
    query_log = own_dir / "clickhouse" / "data" / "data" / "system" / "query_log"
    server.up(settings, own_dir)
    ask(settings, "SYSTEM FLUSH LOGS")
    assert list(query_log.glob("20*"))
    server.down(own_dir)
    server.ServerHome(own_dir).make()
    assert not query_log.exists()


def _make_table(settings) -> None:
    ask(settings, "CREATE DATABASE d")
    ask(settings, "CREATE TABLE d.t (a Int64) ENGINE = MergeTree ORDER BY a")
    assert ask(settings, "INSERT INTO d.t VALUES (1), (2), (3)") == ""


def _pid(own_dir) -> int:
    return int((own_dir / "clickhouse" / "server.lock").read_text().split()[0])


@contextmanager
def _web_server(port: int):
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.headers)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", port), Handler) as web:
        thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield seen
        finally:
            web.shutdown()
            thread.join()
