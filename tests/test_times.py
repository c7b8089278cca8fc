"""Times, days, months and durations as they are typed and shown."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date

import pytest

from extract.errors import UsageError
from extract.times import bucket_end_ms, duration, iso, parse_day, parse_duration, parse_month, parse_time_ms

NOW_MS = 1_700_000_000_000


def test_time_before_now_has_a_unit() -> None:
    """Minutes, hours, days and weeks."""
    ages_s = {"90m": 5_400, "24h": 86_400, "7d": 604_800, "2w": 1_209_600}
    for text, age_s in ages_s.items():
        assert parse_time_ms(text, "--since", NOW_MS) == NOW_MS - age_s * 1000


def test_time_without_offset_is_utc() -> None:
    """A time with an offset is converted."""
    for text in ("2023-11-14T22:13:20", "2023-11-14T22:13:20Z", "2023-11-15T00:13:20+02:00"):
        assert parse_time_ms(text, "--since", 0) == NOW_MS


def test_duration_is_in_seconds() -> None:
    """A number without a unit is seconds; fractions are allowed."""
    texts = {"10s": 10, "45": 45, "90m": 5_400, "26h": 93_600, "1.5d": 129_600, "1w": 604_800}
    assert {text: parse_duration(text, "--every") for text in texts} == texts


def test_day_and_month() -> None:
    """A month is its first day."""
    assert parse_day("2026-10-31", "--day") == date(2026, 10, 31)
    assert parse_month("2026-02", "--month") == date(2026, 2, 1)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (lambda text, option: parse_time_ms(text, option, 0), "soon"),
        (lambda text, option: parse_time_ms(text, option, NOW_MS), "9999999w"),
        (lambda text, option: parse_time_ms(text, option, NOW_MS), "9" * 5_000 + "d"),
        (lambda text, option: parse_time_ms(text, option, 0), "0001-01-01T00:00+23:59"),
        (lambda text, option: parse_time_ms(text, option, 0), "9999-12-31T23:59-23:59"),
        (parse_duration, "9" * 5_000),
        (parse_duration, "999999w"),
        (parse_duration, "-5s"),
        (parse_duration, "5 fortnights"),
        (parse_day, "2026-02-30"),
        (parse_month, "2026-13"),
    ],
)
def test_malformed_text_is_a_usage_error(parse: Callable[[str, str], object], text: str) -> None:
    """The sentence names the option and what was typed."""
    with pytest.raises(UsageError, match="^" + re.escape(f"--x {text!r} is not a ")):
        parse(text, "--x")


def test_duration_is_shown_rounded_down_in_the_largest_unit_that_fits_twice() -> None:
    """For example, 119 minutes are not shown as an hour."""
    shown = [duration(seconds) for seconds in (0, 119.9, 120, 7_199, 7_200, 172_800)]
    assert shown == ["0 s", "119 s", "2 min", "119 min", "2 h", "2 d"]


def test_iso_has_milliseconds_where_there_are_any() -> None:
    """Always in UTC, with Z."""
    assert [iso(NOW_MS), iso(NOW_MS + 7)] == ["2023-11-14T22:13:20Z", "2023-11-14T22:13:20.007Z"]


@pytest.mark.parametrize(
    ("level", "at", "end"),
    [
        ("1m", "2026-01-15T10:07:59.999", "2026-01-15T10:08"),
        ("15m", "2026-01-15T10:07:30", "2026-01-15T10:15"),
        ("4h", "2026-01-15T10:07", "2026-01-15T12:00"),
        ("1d", "2026-01-15T00:00", "2026-01-16"),
        ("1w", "2026-01-15T10:07", "2026-01-19"),  # a Monday
        ("1w", "2026-01-19T00:00", "2026-01-26"),
        ("1mo", "2026-12-31T23:59:59.999", "2027-01-01"),
        ("1mo", "2028-02-01T00:00", "2028-03-01"),
    ],
)
def test_bucket_ends_where_the_next_begins(level: str, at: str, end: str) -> None:
    at_ms, end_ms = (parse_time_ms(text, "at", 0) for text in (at, end))
    assert bucket_end_ms(level, at_ms) == end_ms
