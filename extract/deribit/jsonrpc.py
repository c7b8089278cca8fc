"""JSON-RPC envelope of the exchange, and the error for an answer without a result.

Codes are from Deribit's documentation. Errors arrive with HTTP 400 and a JSON body, sometimes with 200, and also as
bodies that are not JSON: therefore the body is decoded before the status is considered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Generic, TypeVar

import msgspec

from extract.deribit.streams import EPOCH_MS
from extract.errors import FinalError, OutsideError, RetriableError

T = TypeVar("T")

RETRIABLE_CODES = frozenset({10028, 10040, 10041, 10047, 10066, 11051, 11094, 13028, 13888})
RETRIABLE_STATUSES = frozenset({408, 425, 429}) | frozenset(range(500, 600))
INVALID_PARAMS = -32602
NOT_FOUND = 13020
END_MS = 4_102_444_800_000
"""2100-01-01 UTC in ms: a later time of an answer is in another unit."""
MAX_MESSAGE_CHARS = 300
"""Longest quotation of the exchange's error message."""
MAX_ERROR_BYTES = 64 * 2**10
"""A larger body holds no error, and is not searched for one."""

DECODE_ERRORS = (msgspec.DecodeError, ValueError, RecursionError)
"""Raised by decoding a body that is not JSON, is nested too deep, has a number of thousands of digits, or another shape."""


class NoResultError(Exception):
    """The body is JSON without a result of the expected shape."""


class RpcError(msgspec.Struct):
    """The member `error` of the envelope."""

    code: int
    message: str = ""
    data: Any = None


class Envelope(msgspec.Struct, Generic[T]):
    """Envelope of each answer. `us_in` is the exchange's time of the request in µs."""

    result: T | msgspec.UnsetType = msgspec.UNSET
    error: RpcError | None = None
    us_in: Any = msgspec.field(name="usIn", default=None)

    @property
    def at_ms(self) -> int | None:
        """The exchange's time in ms since 1970 UTC; None for one that is in no possible year, as in other units."""
        at_ms = self.us_in // 1000 if type(self.us_in) is int else 0
        return at_ms if EPOCH_MS <= at_ms < END_MS else None

    def unwrap(self) -> T:
        """The result. Raises NoResultError if there is none."""
        if self.error is not None or self.result is msgspec.UNSET:
            raise NoResultError("the answer holds no result")
        return self.result


class ExchangeRefusedError(FinalError):
    """The exchange rejected the request; repeating it would give the same answer."""

    def __init__(self, message: str, *, code: int | None, status: int, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.param = param


_error_decoder = msgspec.json.Decoder(Envelope[msgspec.Raw])


def error_from_response(method: str, status: int, headers: Mapping[str, str], body: bytes) -> OutsideError:
    """The error for an answer without a usable result: RetriableError or ExchangeRefusedError."""
    retry_after_s = _retry_after_s(headers)
    rpc = None
    if len(body) <= MAX_ERROR_BYTES:
        with suppress(*DECODE_ERRORS):
            rpc = _error_decoder.decode(body).error
    if rpc is None:
        content = f"HTTP {status}" if status != 200 else f"{len(body)} bytes without a result"
        message = f"The exchange answered {method} with {content}"
        if status in RETRIABLE_STATUSES or status == 200:
            return RetriableError(message, retry_after_s=retry_after_s)
        return ExchangeRefusedError(message, code=None, status=status)
    data = rpc.data if isinstance(rpc.data, dict) else {}
    detail = ", ".join(str(data[key]) for key in ("param", "reason") if data.get(key))
    text = f"{rpc.message} ({detail})" if detail else rpc.message
    message = f"The exchange answered {method} with error {rpc.code} {text[:MAX_MESSAGE_CHARS]}"
    if rpc.code in RETRIABLE_CODES or status in RETRIABLE_STATUSES:
        return RetriableError(message, retry_after_s=retry_after_s)
    param = data.get("param")
    return ExchangeRefusedError(
        message, code=rpc.code, status=status, param=param if isinstance(param, str) else None
    )


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds of a `Retry-After` header; the exchange does not use its date form."""
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None
