"""Messages of errors are safe to print, wherever they are printed."""

from __future__ import annotations

import pickle

import pytest

from extract.clickhouse.errors import to_tape_error
from extract.clickhouse.settings import ClickHouseSettings
from extract.deribit.jsonrpc import error_from_response
from extract.errors import OutsideError, RetriableError

HOSTILE = "\x1b]0;owned\x07 \x1b[2J\u202e evil \r\x9b1m"


def test_message_of_the_exchange_cannot_control_a_terminal() -> None:
    """Its control characters are escaped, and the rest is readable."""
    body = b'{"error": {"code": 1, "message": "\\u001b[2J evil \\u009b1m\\r"}}'
    error = error_from_response("get_time", 400, {}, body)
    assert str(error).isprintable()
    assert "evil" in str(error)
    assert r"\x1b[2J" in str(error)


def test_message_of_the_database_cannot_control_a_terminal() -> None:
    settings = ClickHouseSettings("local", "127.0.0.1", 1, "tape", "secret")
    error = to_tape_error(OSError(HOSTILE), settings)
    assert str(error).isprintable()
    assert "evil" in str(error)


@pytest.mark.parametrize("kind", [OutsideError, RetriableError])
def test_error_survives_pickling(kind: type[OutsideError]) -> None:
    """Workers send errors to their process."""
    again = pickle.loads(pickle.dumps(kind("one line\nanother")))
    assert (type(again), str(again)) == (kind, r"one line\nanother")
