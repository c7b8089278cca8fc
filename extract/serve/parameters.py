"""Parameters that several routes have, and their check: unknown and repeated ones are errors."""

from __future__ import annotations

import difflib
import time
from collections import Counter
from typing import Annotated, Literal

from fastapi import Path, Query, Request

from extract.errors import UsageError
from extract.serve.errors import ApiError
from extract.times import parse_time_ms

MAX_TEXT = 200
LAST_MS = 10_413_792_000_000
"""2300-01-01: the end of the times that ClickHouse can compare."""

_TIME = "`2026-01-02`, `2026-01-02T08:00Z`, or `7d` for seven days before now."
_TIME_EXAMPLES = ["2026-01-02", "2026-01-02T08:00Z", "7d"]
_CODE = r"^[A-Za-z0-9_]{1,20}$"

Since = Annotated[
    str | None, Query(description=f"Start, included: {_TIME}", examples=_TIME_EXAMPLES, max_length=40)
]
Until = Annotated[
    str | None, Query(description=f"End, excluded: {_TIME}", examples=_TIME_EXAMPLES, max_length=40)
]
At = Annotated[str | None, Query(description=f"Moment: {_TIME}", examples=_TIME_EXAMPLES, max_length=40)]
Limit = Annotated[
    int,
    Query(ge=1, le=1_000_000, description="Rows of an answer; at most 10,000 in JSON.", examples=[1000]),
]
Cursor = Annotated[str | None, Query(description="`next_cursor` of the answer before.", max_length=2000)]
Order = Annotated[Literal["asc", "desc"], Query(description="Order of time.")]
FormatName = Annotated[
    Literal["json", "arrow", "parquet", "csv"] | None,
    Query(alias="format", description="Format of the answer; takes precedence over `Accept`."),
]
Name = Annotated[
    str,
    Path(
        description="Name of the instrument.", examples=["BTC-PERPETUAL"], min_length=1, max_length=MAX_TEXT
    ),
]
Currency = Annotated[str, Path(description="Underlying coin.", examples=["BTC"], pattern=_CODE)]
CurrencyFilter = Annotated[str, Query(description="Only this currency.", examples=["BTC"], max_length=20)]
KindFilter = Annotated[
    str, Query(description="Only this kind: future, option, spot, future_combo, option_combo.", max_length=20)
]
SettlementFilter = Annotated[
    str, Query(description="Only this currency of profit and loss.", examples=["USDC"], max_length=20)
]
ExpiryFilter = Annotated[
    str | None,
    Query(
        description="Only this day of expiry, UTC.", examples=["2026-01-30"], pattern=r"^\d{4}-\d{2}-\d{2}$"
    ),
]
Flag = Literal["true", "false"]


def time_ms(text: str | None, name: str, default_ms: int) -> int:
    """Milliseconds of a parameter, at most LAST_MS; `default_ms` if it is not given."""
    if text is None:
        return default_ms
    try:
        return min(parse_time_ms(text, name, time.time_ns() // 1_000_000), LAST_MS - 1)
    except UsageError as error:
        raise ApiError("invalid_parameter", str(error)) from None


def time_range(
    since: str | None, until: str | None, default_ms: tuple[int, int] = (0, LAST_MS)
) -> tuple[int, int]:
    """Start and end in milliseconds. Raises ApiError if the end is not after the start."""
    since_ms, until_ms = time_ms(since, "since", default_ms[0]), time_ms(until, "until", default_ms[1])
    if since is not None and until is not None and since_ms >= until_ms:
        raise ApiError("invalid_parameter", f"until {until!r} is not after since {since!r}.")
    return since_ms, until_ms


def flag(value: Flag | None) -> int:
    """1, 0, or -1 for any, as the statements have it."""
    return -1 if value is None else int(value == "true")


async def require_known_parameters(request: Request) -> None:
    """Raise ApiError for a parameter that the document of the route does not have, or that is given twice."""
    if not request.query_params:
        return
    known = documented_parameters(request)
    for name, count in Counter(name for name, _ in request.query_params.multi_items()).items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known) or 'none'}."
            raise ApiError("unknown_parameter", f"The parameter {name[:50]!r} is not known here{hint}")
        if count > 1:
            raise ApiError("invalid_parameter", f"The parameter {name!r} is given {count} times.")


def documented_parameters(request: Request) -> list[str]:
    """Names of the query parameters that the OpenAPI document has for the route of a request."""
    paths = request.app.openapi()["paths"]
    operation = paths.get(request.scope["route"].path, {}).get(request.method.lower(), {})
    return [each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"]
