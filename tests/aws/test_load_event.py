"""The event after each increment or backfill that has loaded trades, on AWS on loopback."""

from __future__ import annotations

import pytest

from extract.aws.workspace import publish_load
from tests.aws.conftest import Subscriber


def test_result_of_a_load_is_published(
    aws_env: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """To a queue that subscribes to the topic; nothing without new trades, and a topic that is gone fails no load."""
    queue = Subscriber()
    result = {"status": "done", "trades": 3, "windows": 1, "notes": []}
    publish_load(result)  # no topic is configured
    monkeypatch.setenv("TAPE_LOADS_TOPIC", queue.topic)
    publish_load({**result, "trades": 0})
    publish_load(result)
    assert queue.receive() == [result]
    monkeypatch.setenv("TAPE_LOADS_TOPIC", f"{queue.topic}-gone")
    publish_load(result)
    assert "was not published" in capsys.readouterr().out
