"""Post changes of the checks' states to a webhook: once per change, from a bounded queue on disk, without ever blocking.

The states that were seen last and the messages that were not delivered yet are in `TAPE_DIR/health-notify.json`.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx

from extract.errors import TapeError, UsageError, printable
from extract.health.checks import Check
from extract.health.thresholds import State
from extract.paths import make_private_dir, tape_dir
from extract.proxies import find_proxy

MOST_QUEUED = 100
"""Messages that wait for the webhook; the oldest ones are dropped, and the next message mentions how many."""
PAUSE_S = 1.0
"""Pause after the first attempt of three; twice as long after the second one."""
TIMEOUT_S = 5.0
TOTAL_S = 20.0
"""Seconds after which delivery is given up until the next call."""
URL_FILE = "TAPE_NOTIFY_URL_FILE"

Format = Literal["slack", "json"]


class NotDeliveredError(TapeError):
    """Messages wait in the queue, because the webhook did not accept them."""


@dataclass(frozen=True)
class Webhook:
    """Where to post, and in which form: Slack's `{"text": …}`, or JSON with the changes. The URL is a secret."""

    url: str = field(repr=False)
    form: Format = "slack"

    @classmethod
    def of(
        cls, url: str | None, form: Format = "slack", env: Mapping[str, str] = os.environ
    ) -> Webhook | None:
        """The webhook at `url`, or at the URL in the file that TAPE_NOTIFY_URL_FILE names; None without both.

        Raises UsageError for a file that cannot be read, and for what is not an http or https URL.
        """
        name = env.get(URL_FILE)
        if not url and name:
            try:
                url = Path(name).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(f"{URL_FILE} names {name}, which cannot be read: {error}.") from None
        if not url:
            return None
        try:
            parts = urlsplit(url)
            is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and url.isprintable()
        except ValueError:
            is_valid = False
        if not is_valid:
            raise UsageError("The webhook is not an address; write it like https://host/path.")
        return cls(url, form)

    @property
    def name(self) -> str:
        """Scheme and host, without the secret parts."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.hostname}"

    def post(self, message: Mapping[str, Any]) -> None:
        """Post one message. Raises NotDeliveredError unless the answer is 2xx; redirects are not followed."""
        body = {"text": message["text"]} if self.form == "slack" else message
        try:
            proxy = find_proxy(self.url)
            with httpx.Client(
                proxy=httpx.Proxy(proxy.address, headers=dict(proxy.headers)) if proxy else None,
                # SSL_CERT_FILE names a private authority.
                verify=httpx.create_ssl_context() if self.url.startswith("https") else False,
                trust_env=False,
                timeout=TIMEOUT_S,
            ) as client:
                answer = client.post(self.url, json=body)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, TapeError) as error:
            raise NotDeliveredError(
                f"The webhook {self.name} cannot be reached: {self._clean(error)}."
            ) from None
        if not answer.is_success:
            raise NotDeliveredError(
                f"The webhook {self.name} refuses the message: HTTP {answer.status_code}."
            )

    def _clean(self, error: Exception) -> str:
        text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        return text.replace(self.url, self.name)


def notify(
    checks: Sequence[Check],
    webhook: Webhook,
    *,
    scope: str = "",
    pause_s: float = PAUSE_S,
    total_s: float = TOTAL_S,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> int:
    """Queue a message if a check changed its state since the last call, and deliver the queue; returns what was delivered.

    `scope` names what was checked: a change is one since the last call with the same scope. A check that was never seen
    counts as ok before, and one that is no longer measured as ok now. Returns within about `total_s` seconds, whatever
    the webhook does.
    Raises NotDeliveredError if messages remain for the next call, and OSError where TAPE_DIR cannot be written.
    """
    with _locked_state() as state:
        changes = list(_changes(checks, state.states.get(scope, {})))
        state.states[scope] = {check.check: check.state.name.lower() for check in checks}
        if changes:
            state.add({"text": _text(changes), "at": now().isoformat(timespec="seconds"), "changes": changes})
        state.save()
        return _deliver(state, webhook, pause_s, total_s) if state.queue else 0


def _changes(checks: Sequence[Check], before: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    ended = {name: was for name, was in before.items() if was != State.OK.name.lower()}
    for check in checks:
        was = ended.pop(check.check, State.OK.name.lower())
        if check.state.name.lower() != was:
            yield check.to_json() | {"was": was, "runbook": f"docs/runbooks.md#{check.check}"}
    for name, was in ended.items():
        check = Check(name, State.OK, None, "", "there is nothing to measure any more")
        yield check.to_json() | {"was": was, "runbook": f"docs/runbooks.md#{name}"}


def _text(changes: Sequence[Mapping[str, Any]]) -> str:
    """A line for each change: `ALARM raw: covered time of BTC future ends 3 d ago (was ok)`."""
    lines = (
        f"{each['state'].upper()} {each['check']}: {each['text']} (was {each['was']})" for each in changes
    )
    # Slack reads these characters as markup.
    escapes = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"))
    text = "\n".join(printable(line) for line in lines)
    for char, escape in escapes:
        text = text.replace(char, escape)
    return f"deribit-tape\n{text}"


@dataclass
class _QueueState:
    """Content of the file: the last states of the checks by scope, messages to deliver, and how many were dropped."""

    path: Path
    states: dict[str, dict[str, str]] = field(default_factory=dict)
    queue: list[dict[str, Any]] = field(default_factory=list)
    dropped: int = 0

    def add(self, message: dict[str, Any]) -> None:
        self.queue.append(message)
        self.dropped += max(0, len(self.queue) - MOST_QUEUED)
        del self.queue[:-MOST_QUEUED]

    def save(self) -> None:
        content = {"states": self.states, "queue": self.queue, "dropped": self.dropped}
        temporary = self.path.with_suffix(".new")
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(content, file)
        temporary.replace(self.path)


@contextmanager
def _locked_state() -> Iterator[_QueueState]:
    """The state on disk; another process waits until this one has finished. A damaged file counts as an empty one."""
    path = tape_dir() / "health-notify.json"
    make_private_dir(path.parent)
    with path.with_suffix(".lock").open("a") as lock:
        _lock(lock.fileno())
        state = _QueueState(path)
        with suppress(FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
            content = json.loads(path.read_text())
            states = {scope: dict(of_scope) for scope, of_scope in content["states"].items()}
            state = _QueueState(path, states, list(content["queue"]), int(content["dropped"]))
        yield state


def _lock(file: int) -> None:
    deadline_s = time.monotonic() + TOTAL_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                raise NotDeliveredError(
                    "Another `tape health` is notifying; the next one continues."
                ) from None
            time.sleep(0.1)


def _deliver(state: _QueueState, webhook: Webhook, pause_s: float, total_s: float) -> int:
    """Post the queue, oldest first, in a thread that a webhook that sends byte by byte cannot make last longer."""
    delivered = 0
    deadline_s = time.monotonic() + total_s
    while state.queue:
        outcome: list[NotDeliveredError | None] = []

        def attempt(message: Mapping[str, Any], outcome: list[NotDeliveredError | None]) -> None:
            try:
                _post_again(webhook, message, pause_s)
                outcome.append(None)
            except NotDeliveredError as error:
                outcome.append(error)

        message = state.queue[0]
        if state.dropped:
            message = message | {
                "text": f"{message['text']}\n({state.dropped} earlier messages were dropped)"
            }
        thread = threading.Thread(target=attempt, args=(message, outcome), name="notify", daemon=True)
        thread.start()
        thread.join(max(0.0, deadline_s - time.monotonic()))
        if not outcome or outcome[0]:
            reason = (
                str(outcome[0]) if outcome and outcome[0] else f"The webhook {webhook.name} does not answer."
            )
            raise NotDeliveredError(f"{reason} {len(state.queue)} messages wait for the next `tape health`.")
        del state.queue[0]
        state.dropped = 0
        state.save()
        delivered += 1
    return delivered


def _post_again(webhook: Webhook, message: Mapping[str, Any], pause_s: float) -> None:
    for pause in (pause_s, 2 * pause_s, None):
        try:
            webhook.post(message)
        except NotDeliveredError:
            if pause is None:
                raise
            time.sleep(pause)
        else:
            return
