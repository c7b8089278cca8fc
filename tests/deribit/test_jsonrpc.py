"""Errors for answers without a result: (status, body, headers) → exception and message."""

from __future__ import annotations

import json
from typing import Any

import pytest

from extract.deribit.jsonrpc import (
    RETRIABLE_CODES,
    Envelope,
    ExchangeRefusedError,
    NoResultError,
    error_from_response,
)
from extract.errors import RetriableError


def rpc(code: int, message: str = "refused", **data: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "error": {"code": code, "message": message, "data": data}}).encode()


HTML = b"<html><title>Please wait</title></html>"
TABLE = [
    (400, rpc(10028, "too_many_requests"), {}, RetriableError, "error 10028 too_many_requests"),
    (200, rpc(13888, "timed_out"), {}, RetriableError, "error 13888 timed_out"),
    (400, rpc(-32602, "Invalid params", param="count", reason="too high"), {}, ExchangeRefusedError,
     "error -32602 Invalid params (count, too high)"),
    (200, rpc(11050, "bad_request"), {}, ExchangeRefusedError, "error 11050 bad_request"),
    (503, rpc(11050, "bad_request"), {}, RetriableError, "error 11050 bad_request"),
    (429, b"", {"retry-after": "3"}, RetriableError, "HTTP 429"),
    (408, HTML, {}, RetriableError, "HTTP 408"),
    (502, HTML, {}, RetriableError, "HTTP 502"),
    (200, HTML, {}, RetriableError, f"{len(HTML)} bytes without a result"),
    (200, b'{"result": {"tra', {}, RetriableError, "16 bytes without a result"),
    (200, b'{"jsonrpc": "2.0"}', {}, RetriableError, "18 bytes without a result"),
    (301, b"", {}, ExchangeRefusedError, "HTTP 301"),
    (403, HTML, {}, ExchangeRefusedError, "HTTP 403"),
    (404, b"", {}, ExchangeRefusedError, "HTTP 404"),
    (400, b'{"error": {"code": "odd"}}', {}, ExchangeRefusedError, "HTTP 400"),
    (400, rpc(-1, "x" * 10_000), {}, ExchangeRefusedError, f"error -1 {'x' * 300}"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "headers", "kind", "message"), TABLE)
def test_error_of_an_answer_without_a_result(
    status: int, body: bytes, headers: dict[str, str], kind: type[Exception], message: str
) -> None:
    """The body is decoded before the status is considered."""
    error = error_from_response("get_time", status, headers, body)
    assert type(error) is kind
    assert str(error) == f"The exchange answered get_time with {message}"


@pytest.mark.parametrize("code", sorted(RETRIABLE_CODES))
def test_temporary_error_codes_are_retriable(code: int) -> None:
    assert type(error_from_response("m", 400, {}, rpc(code))) is RetriableError


@pytest.mark.parametrize("code", [-32602, -32601, -32700, 11050, 11029, 10020, 13020])
def test_every_final_code(code: int) -> None:
    error = error_from_response("m", 400, {}, rpc(code, param="currency"))
    assert type(error) is ExchangeRefusedError
    assert (error.code, error.param, error.status) == (code, "currency", 400)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("3", 3.0), ("0.25", 0.25), ("-4", None), ("soon", None), ("nan", None), ("inf", None), (None, None)],
)
def test_retry_after_is_parsed(header: str | None, seconds: float | None) -> None:
    """The header is in seconds; a value that is not a number of seconds is ignored."""
    headers = {"retry-after": header} if header is not None else {}
    assert error_from_response("m", 429, headers, b"").retry_after_s == seconds


def test_unwrap_returns_the_result_or_raises() -> None:
    assert Envelope(result=None).unwrap() is None
    with pytest.raises(NoResultError):
        Envelope().unwrap()
    assert Envelope(us_in=1_700_000_000_123_456).at_ms == 1_700_000_000_123
    assert Envelope(us_in="odd").at_ms is None
    assert [Envelope(us_in=1_700_000_000 * 10**n).at_ms for n in (0, 3, 9)] == [None] * 3, "in another unit"
