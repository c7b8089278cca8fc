"""Query parameters, validated with the error messages of the real exchange."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

KINDS = ("future", "option", "spot", "future_combo", "option_combo")
SORTINGS = ("asc", "desc", "default")
RESOLUTIONS = {str(minutes): minutes for minutes in (1, 3, 5, 10, 15, 30, 60, 120, 180, 360, 720)} | {
    "1D": 1440
}


class ApiError(Exception):
    """An error of the API, returned as HTTP 400 with a JSON body."""

    def __init__(self, code: int, message: str, **details: Any) -> None:
        super().__init__(message)
        self.error: dict[str, Any] = {"code": code, "message": message, **details}


def invalid(param: str, reason: str) -> ApiError:
    return ApiError(-32602, "Invalid params", data={"reason": reason, "param": param})


class Params:
    """Typed access to query parameters; each getter raises ApiError with Deribit's reason."""

    def __init__(self, query: Mapping[str, str]) -> None:
        self.query = query

    def text(self, name: str) -> str:
        if not self.query.get(name):
            raise invalid(name, "value is required")
        return self.query[name]

    def choice(self, name: str, allowed: tuple[str, ...], default: str) -> str:
        value = self.query.get(name)
        if value is None:
            return default
        if value not in allowed:
            raise invalid(name, "wrong format")
        return value

    def integer(self, name: str) -> int | None:
        value = self.query.get(name)
        if value is None:
            return None
        if not re.fullmatch("-?[0-9]{1,18}", value):
            raise invalid(name, "wrong format")
        return int(value)

    def required_integer(self, name: str) -> int:
        self.text(name)
        return self.integer(name) or 0

    def count(self, limit: int) -> int:
        count = self.integer("count")
        if count is None:
            return 10
        if count < 1:
            raise invalid("count", "value is too low")
        if count > limit:
            raise invalid("count", "value is too high")
        return count
