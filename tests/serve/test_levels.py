"""The candle level of a range of time."""

from __future__ import annotations

import pytest

from extract.serve.levels import CandleRange, chosen_range

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
END = 1_735_689_600_000
"""2025-01-01."""


@pytest.mark.parametrize(
    ("timeframe", "level", "length_ms"),
    [
        ("1h", "1m", HOUR),
        ("24h", "15m", DAY),
        ("7d", "1h", 7 * DAY),
        ("30d", "4h", 30 * DAY),
        ("1y", "1d", 365 * DAY),
    ],
)
def test_timeframe_chooses_the_level(timeframe: str, level: str, length_ms: int) -> None:
    """It ends with the loaded history, or with `until`."""
    chosen = chosen_range((-1, -1), END, None, timeframe)
    assert chosen.level == level
    assert END - length_ms - MINUTE < chosen.since_ms <= END - length_ms + 1
    earlier = chosen_range((-1, END - DAY), END, None, timeframe)
    assert (earlier.level, earlier.until_ms) == (level, END - DAY)


def test_all_begins_with_the_exchange() -> None:
    """There is no earlier trade than 2016."""
    assert chosen_range((-1, -1), END, None, "all") == CandleRange("1d", 1_451_606_400_000, END + 1)


@pytest.mark.parametrize(
    ("length_ms", "level"),
    [(HOUR, "1m"), (1500 * MINUTE, "1m"), (1500 * MINUTE + 1, "15m"), (60 * DAY, "1h"), (99 * DAY, "4h"),
     (4 * 365 * DAY, "1d"), (9 * 365 * DAY, "1w"), (54 * 365 * DAY, "1mo")],
)  # fmt: skip
def test_range_has_the_finest_level_with_few_buckets(length_ms: int, level: str) -> None:
    """At most 1,500 buckets."""
    assert chosen_range((END - length_ms, END), END, None, None).level == level


def test_level_overrides_the_range_and_alone_chooses_its_length() -> None:
    """`level` alone is the 1,500 newest buckets."""
    assert chosen_range((END - DAY, END), END, "1d", None).level == "1d"
    assert chosen_range((-1, -1), END, "1m", "7d").level == "1m"
    alone = chosen_range((-1, -1), END, "1h", None)
    assert (alone.level, alone.since_ms) == ("1h", END - 1500 * HOUR)


def test_start_is_moved_to_its_minute() -> None:
    """So that the bucket that contains it is included."""
    assert chosen_range((END + 59_999, END + DAY), END, None, None).since_ms == END
