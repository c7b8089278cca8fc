"""Expiry, currency and kind of an instrument, derived from its name if it follows the naming rules."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

_DATE = re.compile(
    r"(?<![0-9A-Z])(\d{1,2})(JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC)(\d{2})(?![0-9A-Z])"
)
_BY_RULE = re.compile(r"([A-Z0-9]+(?:_[A-Z0-9]+)?)(?:-(?:PERPETUAL|\d{1,2}[A-Z]{3}\d{2}(?:-.*)?))?")

_KIND_RULES = {
    "future": re.compile(r"[A-Z0-9_]+-(PERPETUAL|\d{1,2}[A-Z]{3}\d{2})"),
    "option": re.compile(r"[A-Z0-9_]+-\d{1,2}[A-Z]{3}\d{2}-[0-9d]+-[CP]"),
    "spot": re.compile(r"[A-Z0-9]+_[A-Z0-9]+"),
    "combo": re.compile(r"[A-Z0-9_]+-[A-Z]{2,}-.+"),
}


def has_expired(instrument_name: str, at: datetime) -> bool:
    """Whether every date in the name is more than two days before `at`; False for a name without a date."""
    dates = [date for parts in _DATE.findall(instrument_name) if (date := _date("".join(parts)))]
    return bool(dates) and max(dates) + timedelta(days=2) < at


def _date(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, "%d%b%y").replace(tzinfo=UTC)
    except ValueError:
        return None


def contradicts_kind(instrument_name: str, kind: str) -> bool:
    """Whether the name follows the naming rules of other documented kinds, but not those of `kind`."""
    matches = {each for each, rule in _KIND_RULES.items() if rule.fullmatch(instrument_name)}
    return bool(matches) and kind.removeprefix("future_").removeprefix("option_") not in matches


@lru_cache(maxsize=10_000)
def belongs_to_other_currency(instrument_name: str, currency: str) -> bool:
    """Whether the name shows that it belongs to another currency; False for a name that does not follow the rules."""
    match = _BY_RULE.fullmatch(instrument_name)
    return match is not None and currency not in match[1]
