"""The one shape of all errors of the API: `{"code": …, "message": …}`, and how other errors become one."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from starlette.responses import Response

from extract.clickhouse.errors import UndefinedRelationError, server_code
from extract.errors import TapeError, UsageError, printable

STATUSES: Mapping[str, int] = {
    "invalid_parameter": 400,
    "unknown_parameter": 400,
    "invalid_cursor": 400,
    "invalid_body": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "unknown_instrument": 404,
    "unknown_currency": 404,
    "unknown_index": 404,
    "no_price": 404,
    "no_outcome": 404,
    "method_not_allowed": 405,
    "not_acceptable": 406,
    "too_large": 413,
    "unsupported_media_type": 415,
    "too_heavy": 422,
    "rate_limited": 429,
    "internal": 500,
    "unavailable": 503,
    "not_loaded": 503,
}
"""HTTP status of each code."""

RETRY_AFTER_S = 2
_TOO_HEAVY = {
    158: "rows to read",
    307: "bytes to read",
    396: "rows or bytes of the result",
    159: "time",
    160: "time",
    241: "memory",
    191: "size of a set",
}
"""Limits by ClickHouse's error code."""
_QUOTA_EXCEEDED, _TOO_MANY_QUERIES = 201, 202


class ApiError(Exception):
    """An answer that is an error: one of the codes of STATUSES, and a message of one sentence."""

    def __init__(self, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(printable(message))
        self.code = code
        self.status = STATUSES[code]
        self.headers = dict(headers or {})
        if self.status in (429, 503):
            self.headers.setdefault("Retry-After", str(RETRY_AFTER_S))

    def response(self) -> Response:
        """The answer; it is never stored by a cache."""
        body = msgspec.json.encode({"code": self.code, "message": str(self)})
        return Response(
            body, self.status, {"Cache-Control": "no-store", **self.headers}, media_type="application/json"
        )


class NotLoadedError(ApiError):
    """The database lacks tables that a load or dbt creates."""

    def __init__(self) -> None:
        super().__init__(
            "not_loaded",
            "The database lacks tables of the models: load trades with `dlt pipeline run`, then run `dbt build`.",
        )


def to_api_error(error: TapeError) -> ApiError:
    """The answer to a failure of the database or to a wrong value; details of the connection stay in the log."""
    code = server_code(error)
    if isinstance(error, UndefinedRelationError):
        return NotLoadedError()
    if code in _TOO_HEAVY:
        return ApiError(
            "too_heavy",
            f"The question exceeds the reader's limit of {_TOO_HEAVY[code]}, so it was cut off; "
            "ask for a shorter time or fewer rows.",
        )
    if code == _QUOTA_EXCEEDED:
        return ApiError("rate_limited", "The reader's quota of queries per hour is used up; try again later.")
    if code == _TOO_MANY_QUERIES:
        return ApiError("unavailable", "The database is busy with other queries; try again.")
    if isinstance(error, UsageError):
        return ApiError("unavailable", "The database rejects the API's login; see the log of the server.")
    return ApiError("unavailable", "The database does not answer; try again.")
