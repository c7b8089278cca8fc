"""Parse and format times, days, months and durations. Everything is UTC."""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime

from extract.errors import UsageError

END_MS = 253_402_300_800_000
"""The end of the year 9999, which no datetime can exceed."""
MAX_DURATION_S = 3_153_600_000
"""A hundred years."""

_AGO = re.compile(r"(\d+)\s*([mhdw])")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhdw]?)")
_UNIT_S = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}

_FIRST_MONDAY_MS = 4 * 86_400_000


def bucket_end_ms(level: str, at_ms: int) -> int:
    """End of the candle of a level, for example `15m`, `1w` (from Monday) or `1mo`, in which the moment `at_ms` is."""
    if level == "1mo":
        at = datetime.fromtimestamp(at_ms / 1000, UTC)
        year, month = divmod(at.year * 12 + at.month, 12)
        return round(datetime(year, month + 1, 1, tzinfo=UTC).timestamp() * 1000)
    length_ms = int(level[:-1]) * _UNIT_S[level[-1]] * 1000
    return at_ms - (at_ms - (_FIRST_MONDAY_MS if level == "1w" else 0)) % length_ms + length_ms


def parse_time_ms(text: str, option: str, now_ms: int) -> int:
    """Milliseconds since 1970 of `2025-01-31`, `2025-01-31T08:00` (also with `Z` or an offset), or `7d` before now.

    Units of a time before now are m, h, d and w. Raises UsageError that names `option`, also for a time before 1970.
    """
    try:
        if ago := _AGO.fullmatch(text.strip()):
            at_ms = now_ms - int(ago[1]) * _UNIT_S[ago[2]] * 1000
        else:
            at = datetime.fromisoformat(text.strip())
            at_ms = int((at.replace(tzinfo=UTC) if at.tzinfo is None else at).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise UsageError(
            f"{option} {text!r} is not a time; write it like 2025-01-31, 2025-01-31T08:00Z or 7d (seven days ago)."
        ) from None
    if not 0 <= at_ms < END_MS:
        raise UsageError(f"{option} {text!r} is not a time from 1970 to 9999.")
    return at_ms


def parse_day(text: str, option: str) -> date:
    """The day `2026-10-31`. Raises UsageError that names `option`."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{option} {text!r} is not a day; write it like 2026-10-31.") from None


def parse_month(text: str, option: str) -> date:
    """The first day of the month `2026-10`. Raises UsageError that names `option`."""
    try:
        return datetime.strptime(text, "%Y-%m").date()
    except ValueError:
        raise UsageError(f"{option} {text!r} is not a month; write it like 2026-10.") from None


def parse_duration(text: str, option: str) -> float:
    """Seconds of `10s`, `90m`, `26h`, `7d` or `2w`; a number without a unit is seconds. Raises UsageError."""
    match = _DURATION.fullmatch(text.strip())
    seconds = float(match[1]) * _UNIT_S[match[2]] if match else math.inf
    if seconds > MAX_DURATION_S:
        raise UsageError(
            f"{option} {text!r} is not a duration of at most {MAX_DURATION_S // 86_400:,} days; write it like 10s, 90m, "
            "26h or 7d."
        )
    return seconds


def duration(seconds: float) -> str:
    """`45 s`, `3 min`, `2 h` or `5 d`: rounded down, in the largest unit that fits at least twice."""
    for unit, name in (("d", "d"), ("h", "h"), ("m", "min")):
        if seconds >= 2 * _UNIT_S[unit]:
            return f"{int(seconds // _UNIT_S[unit])} {name}"
    return f"{int(seconds)} s"


def iso(at_ms: int | float) -> str:
    """`2025-01-31T08:00:00.123Z`; whole seconds without a fraction."""
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    return at.isoformat(timespec="milliseconds" if at_ms % 1000 else "seconds").replace("+00:00", "Z")


def sql_time(at_ms: int) -> str:
    """`2026-01-02 08:00:00.000`, the text of a moment as a parameter of a statement."""
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    return f"{at:%Y-%m-%d %H:%M:%S}.{at_ms % 1000:03d}"
