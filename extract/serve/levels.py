"""Candle levels: which one a range of time is shown at. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
MAX_BUCKETS = 1_500
EPOCH_MS = 1_451_606_400_000
"""2016-01-01: the exchange has no earlier trade."""


@dataclass(frozen=True)
class Level:
    """A level: its table, and the length of a bucket in ms (of a month, 30 days)."""

    table: str
    bucket_ms: int


LEVELS: Mapping[str, Level] = {
    "1m": Level("ohlcv_1m", HOUR_MS // 60),
    "15m": Level("ohlcv_15m", HOUR_MS // 4),
    "1h": Level("ohlcv_1h", HOUR_MS),
    "4h": Level("ohlcv_4h", 4 * HOUR_MS),
    "1d": Level("ohlcv_1d", DAY_MS),
    "1w": Level("ohlcv_1w", 7 * DAY_MS),
    "1mo": Level("ohlcv_1mo", 30 * DAY_MS),
}
"""Finest first."""

TIMEFRAMES: Mapping[str, tuple[str, int | None]] = {
    "1h": ("1m", HOUR_MS),
    "24h": ("15m", DAY_MS),
    "7d": ("1h", 7 * DAY_MS),
    "30d": ("4h", 30 * DAY_MS),
    "90d": ("4h", 90 * DAY_MS),
    "1y": ("1d", 365 * DAY_MS),
    "all": ("1d", None),
}
"""Level and length of a timeframe; None: everything."""
DEFAULT_TIMEFRAME = "24h"


@dataclass(frozen=True)
class CandleRange:
    """A level, and the time from `since_ms` (included) to `until_ms` (excluded)."""

    level: str
    since_ms: int
    until_ms: int


def chosen_range(
    given: tuple[int, int], end_ms: int, level: str | None, timeframe: str | None
) -> CandleRange:
    """The range of a request. `given`: since and until, -1 where not given; `end_ms`: the end of the loaded history.

    A start is moved to the start of its minute, so that this minute is included.
    """
    since_ms, until_ms = given
    if until_ms < 0:
        until_ms = max(end_ms, since_ms) + 1
    if since_ms < 0:
        of_timeframe, length_ms = TIMEFRAMES[timeframe or DEFAULT_TIMEFRAME]
        if level and not timeframe:
            length_ms = MAX_BUCKETS * LEVELS[level].bucket_ms
        since_ms = EPOCH_MS if length_ms is None else max(EPOCH_MS, until_ms - length_ms)
        level = level or of_timeframe
    level = level or finest_level(until_ms - since_ms)
    # The range has the buckets that begin in it.
    return CandleRange(level, since_ms - since_ms % LEVELS["1m"].bucket_ms, until_ms)


def finest_level(length_ms: int) -> str:
    """The finest level at which that time has at most MAX_BUCKETS buckets."""
    return next((name for name, level in LEVELS.items() if length_ms <= MAX_BUCKETS * level.bucket_ms), "1mo")
