"""Times as people type them, in UTC, as milliseconds since 1970."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime

from extract.errors import UsageError

_AGO = re.compile(r"(\d+)\s*(m|h|d|w)")
_UNIT_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}


def parse_time_ms(text: str, option: str, now_ms: int) -> int:
    """`2025-01-31`, `2025-01-31T08:00`, with `Z` or an offset, or so long ago: `90m`, `24h`, `7d`, `2w`.

    Times without an offset are UTC. Raises UsageError that names `option`.
    """
    if ago := _AGO.fullmatch(text.strip()):
        return now_ms - int(ago[1]) * _UNIT_MS[ago[2]]
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        raise UsageError(
            f"{option} {text!r} is no time; write it like 2025-01-31, 2025-01-31T08:00Z or 7d (seven days ago)."
        ) from None
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    return int(at.timestamp() * 1000)


def parse_day(text: str, option: str) -> date:
    """`2026-10-31`. Raises UsageError that names `option`."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{option} {text!r} is no day; write it like 2026-10-31.") from None


def iso(at_ms: int | float) -> str:
    """`2025-01-31T08:00:00.123Z`; whole seconds without a fraction."""
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    return at.isoformat(timespec="milliseconds" if at_ms % 1000 else "seconds").replace("+00:00", "Z")
