"""The exchange's JSON-RPC envelope, and what its errors ask of us.

Codes from Deribit's documentation; errors come in HTTP 400 with a JSON body, now and then in 200, and as bodies
that are no JSON at all: the body is read before the status is judged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import msgspec

from extract.errors import FinalError, OutsideError, RetriableError

T = TypeVar("T")

RETRIABLE_CODES = frozenset({10028, 10040, 10041, 10047, 10066, 11051, 11094, 13028, 13888})
RETRIABLE_STATUSES = frozenset({408, 425, 429}) | frozenset(range(500, 600))
INVALID_PARAMS = -32602
MAX_MESSAGE_CHARS = 300
"""Characters of the exchange's own words in a message."""


DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises for a body that is no JSON, or not of the expected shape."""


class NoResultError(ValueError):
    """The body is JSON and holds no result of the expected shape."""


class RpcError(msgspec.Struct):
    """`error` of the envelope."""

    code: int
    message: str = ""
    data: Any = None


class Envelope(msgspec.Struct, Generic[T]):
    """What surrounds each answer. `us_in` is the exchange's own clock when it took the question, in µs."""

    result: T | msgspec.UnsetType = msgspec.UNSET
    error: RpcError | None = None
    us_in: Any = msgspec.field(name="usIn", default=None)

    @property
    def at_ms(self) -> int | None:
        """The exchange's time of the answer in ms."""
        return self.us_in // 1000 if type(self.us_in) is int else None

    def unwrap(self) -> T:
        """The result; NoResultError where there is none."""
        if self.error is not None or self.result is msgspec.UNSET:
            raise NoResultError("the answer holds no result")
        return self.result


class ExchangeRefusedError(FinalError):
    """The exchange understood and said no: the same question will get the same answer."""

    def __init__(self, message: str, *, code: int | None, status: int, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.param = param


_error_decoder = msgspec.json.Decoder(Envelope[msgspec.Raw])


def error_from_response(method: str, status: int, headers: Mapping[str, str], body: bytes) -> OutsideError:
    """The error that an answer without a usable result stands for, by what to do about it."""
    retry_after_s = _retry_after_s(headers)
    try:
        rpc = _error_decoder.decode(body).error
    except DECODE_ERRORS:
        rpc = None
    if rpc is None:
        what = f"HTTP {status}" if status != 200 else f"{len(body)} bytes that are no result"
        message = f"The exchange answered {method} with {what}"
        if status in RETRIABLE_STATUSES or status == 200:
            return RetriableError(message, retry_after_s=retry_after_s)
        return ExchangeRefusedError(message, code=None, status=status)
    data = rpc.data if isinstance(rpc.data, dict) else {}
    detail = ", ".join(str(data[key]) for key in ("param", "reason") if data.get(key))
    said = f"{rpc.message} ({detail})" if detail else rpc.message
    message = f"The exchange answered {method} with error {rpc.code} {said[:MAX_MESSAGE_CHARS]}"
    if rpc.code in RETRIABLE_CODES or status in RETRIABLE_STATUSES:
        return RetriableError(message, retry_after_s=retry_after_s)
    param = data.get("param")
    return ExchangeRefusedError(
        message, code=rpc.code, status=status, param=param if isinstance(param, str) else None
    )


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds of a `Retry-After` header; its date form is not used by the exchange."""
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None
