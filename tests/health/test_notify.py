"""`tape health --notify`: changes of state reach a webhook once and in order, and no webhook delays or breaks the checks."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from extract.errors import UsageError
from extract.health.checks import Check
from extract.health.notify import MOST_QUEUED, NotDeliveredError, Webhook, notify
from extract.health.thresholds import State
from tests.support.certificates import Authority
from tests.support.commands import tape_here

SECRET = "/services/T000/B000/a-secret-of-the-webhook"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.hangs:
            self.server.is_released.wait(30)
            return
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        if status == 200:
            self.server.bodies.append(body)
        self.server.attempts += 1
        self.send_response(status)
        self.send_header("Location", "http://127.0.0.1:9/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


class Receiver(ThreadingHTTPServer):
    """A webhook on loopback. `statuses`: answers to the next posts, 200 afterwards. `bodies`: what it accepted."""

    daemon_threads = True

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses: list[int] = []
        self.bodies: list[dict[str, Any]] = []
        self.attempts = 0
        self.hangs = False
        self.is_released = threading.Event()
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.server_address[1]}{SECRET}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_: object) -> None: ...


@pytest.fixture
def start_receiver() -> Iterator[Callable[..., Receiver]]:
    receivers: list[Receiver] = []

    def start(*arguments: Any) -> Receiver:
        receivers.append(Receiver(*arguments))
        return receivers[-1]

    yield start
    for each in receivers:
        each.is_released.set()
        each.shutdown()
        each.server_close()


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TAPE_DIR", str(tmp_path / "tape"))
    return tmp_path / "tape"


@pytest.fixture
def receiver(start_receiver: Callable[..., Receiver]) -> Receiver:
    return start_receiver()


def checks(**states: State) -> list[Check]:
    return [Check(name, state, 1.0, "seconds", f"{name} < 3 & more") for name, state in states.items()]


def send(receiver: Receiver, form: Any = "slack", **states: State) -> int:
    return notify(checks(**states), Webhook(receiver.url, form), pause_s=0.01)


def test_only_changes_are_posted(receiver: Receiver) -> None:
    """The first alarm, its end, and nothing while a state lasts; what is ok at first is not worth a message."""
    assert send(receiver, raw=State.OK, gaps=State.OK) == 0
    assert send(receiver, raw=State.ALARM, gaps=State.OK) == 1
    assert send(receiver, raw=State.ALARM, gaps=State.OK) == 0
    assert send(receiver, raw=State.OK, gaps=State.WARN) == 1
    assert [body["text"].splitlines()[1:] for body in receiver.bodies] == [
        ["ALARM raw: raw &lt; 3 &amp; more (was ok)"],
        ["OK raw: raw &lt; 3 &amp; more (was alarm)", "WARN gaps: gaps &lt; 3 &amp; more (was ok)"],
    ]
    assert all(set(body) == {"text"} for body in receiver.bodies)


def test_check_that_is_no_longer_measured_is_ok(receiver: Receiver) -> None:
    """So its next alarm is a change again."""
    send(receiver, raw=State.OK, duration=State.WARN)
    send(receiver, raw=State.OK)
    send(receiver, raw=State.OK)
    send(receiver, raw=State.OK, duration=State.WARN)
    assert [body["text"].splitlines()[1] for body in receiver.bodies] == [
        "WARN duration: duration &lt; 3 &amp; more (was ok)",
        "OK duration: there is nothing to measure any more (was warn)",
        "WARN duration: duration &lt; 3 &amp; more (was ok)",
    ]


def test_scopes_have_states_of_their_own(receiver: Receiver) -> None:
    """Calls for local and cloud in turn post nothing while neither changes."""
    for _ in range(3):
        notify(checks(raw=State.ALARM), Webhook(receiver.url), scope="cloud")
        notify(checks(raw=State.OK), Webhook(receiver.url), scope="local")
    assert len(receiver.bodies) == 1


def test_json_has_the_changes(receiver: Receiver) -> None:
    send(receiver, "json", raw=State.ALARM)
    (change,) = receiver.bodies[0]["changes"]
    assert (change["check"], change["state"], change["was"]) == ("raw", "alarm", "ok")
    assert change["runbook"] == "docs/runbooks.md#raw"


def test_refused_message_is_tried_again_and_then_waits(receiver: Receiver, directory: Path) -> None:
    """Two refusals are tried again at once; after a third one, messages wait on disk and arrive in order."""
    receiver.statuses = [500, 429]
    assert send(receiver, raw=State.ALARM) == 1
    assert receiver.attempts == 3
    receiver.statuses = [302, 503, 403]
    with pytest.raises(NotDeliveredError, match=r"HTTP 403\. 1 messages wait") as refused:
        send(receiver, raw=State.OK)
    assert SECRET not in str(refused.value)
    assert SECRET not in (directory / "health-notify.json").read_text()
    assert send(receiver, raw=State.WARN) == 2
    assert [body["text"].splitlines()[1].split()[0] for body in receiver.bodies] == ["ALARM", "OK", "WARN"]


def test_queue_is_bounded(receiver: Receiver, directory: Path) -> None:
    """Of more changes than the queue holds, the newest are delivered, and the first message mentions the others."""
    webhook = Webhook("http://127.0.0.1:9/")
    for number in range(MOST_QUEUED + 5):  # nothing listens at port 9
        with pytest.raises(NotDeliveredError, match="cannot be reached"):
            notify(checks(raw=State.ALARM if number % 2 else State.WARN), webhook, pause_s=0)
    assert len(json.loads((directory / "health-notify.json").read_text())["queue"]) == MOST_QUEUED
    assert send(receiver, raw=State.WARN) == MOST_QUEUED
    assert "5 earlier messages were dropped" in receiver.bodies[0]["text"]
    assert "dropped" not in receiver.bodies[1]["text"]


def test_webhook_that_hangs_ends_in_time(receiver: Receiver) -> None:
    receiver.hangs = True
    began_s = time.monotonic()
    with pytest.raises(NotDeliveredError, match="does not answer"):
        notify(checks(raw=State.ALARM), Webhook(receiver.url), total_s=0.3)
    assert time.monotonic() - began_s < 3


def test_damaged_queue_counts_as_empty(receiver: Receiver, directory: Path) -> None:
    directory.mkdir()
    (directory / "health-notify.json").write_text('{"states": {"raw"')
    assert send(receiver, raw=State.ALARM) == 1


def test_private_authority_is_trusted_by_name(
    start_receiver: Callable[..., Receiver], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SSL_CERT_FILE names it; without it, nothing is sent. No proxy is used for loopback."""
    authority = Authority(tmp_path / "ca")
    presented = authority.signed("webhook")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(presented.cert, presented.key)
    receiver = start_receiver(context)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(NotDeliveredError, match="CERTIFICATE_VERIFY_FAILED"):
        send(receiver, raw=State.ALARM)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca.cert))
    assert send(receiver, raw=State.ALARM) == 1


def test_url_comes_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("https://127.0.0.1/secret\n")
    webhook = Webhook.of(None, env={"TAPE_NOTIFY_URL_FILE": str(file)})
    assert webhook
    assert webhook.url == "https://127.0.0.1/secret"
    assert "secret" not in repr(webhook)
    assert Webhook.of(None, env={}) is None
    with pytest.raises(UsageError, match=r"TAPE_NOTIFY_URL_FILE names .*/none"):
        Webhook.of(None, env={"TAPE_NOTIFY_URL_FILE": str(tmp_path / "none")})


@pytest.mark.parametrize(
    "url", ["hooks.example.com", "ftp://host/x", "https:///x", "https://[x/", "http://h/\x1b"]
)
def test_wrong_address_is_a_usage_error(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without repeating it: it may hold a secret."""
    monkeypatch.setenv("TAPE_NOTIFY_URL", url)
    done = tape_here("health")
    assert (done.code, done.out) == (3, "")
    assert "webhook is not an address" in done.err
    assert url not in done.err


def test_command_posts_alarms_and_survives_the_webhook(
    receiver: Receiver, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a server every check is unknown, with exit code 2; so it is if the webhook refuses."""
    monkeypatch.setenv("CLICKHOUSE_LOCAL_PORT", "9")
    monkeypatch.setenv("CLICKHOUSE_LOCAL_PASSWORD", "x")
    monkeypatch.setenv("TAPE_NOTIFY_URL", receiver.url)
    done = tape_here("health")
    assert (done.code, done.err) == (2, "")
    assert "UNKNOWN raw: cannot tell" in receiver.bodies[0]["text"]
    done = tape_here("health", "--notify", "http://127.0.0.1:9/", "--raw", "1h:2h")
    assert done.code == 2
    assert done.err == ""  # no state has changed
    (directory / "health-notify.json").unlink()
    done = tape_here("health", "--notify", "http://127.0.0.1:9/")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "The webhook http://127.0.0.1 cannot be reached" in done.err
