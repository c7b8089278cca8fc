"""Parse instrument names, independently of the extractor so that tests compare two implementations."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
NEVER_MS = 32_503_708_800_000  # the expiry that Deribit gives a perpetual

_DATE = r"(?P<day>\d{1,2})(?P<month>[A-Z]{3})(?P<year>\d{2})"
_PAIR = r"(?P<base>[A-Z0-9]+?)(?:_(?P<quote>[A-Z0-9]+))?"
_FUTURE = re.compile(rf"{_PAIR}-(?:PERPETUAL|{_DATE})")
_OPTION = re.compile(rf"{_PAIR}-{_DATE}-(?P<strike>\d+(?:d\d+)?)-(?P<side>[CP])")
_SPOT = re.compile(r"(?P<base>[A-Z0-9]+)_(?P<quote>[A-Z0-9]+)")
_COMBO = re.compile(rf"{_PAIR}-(?P<code>[A-Z][A-Z0-9]*)-{_DATE}[-_].+")
_ANY_DATE = re.compile(_DATE)


@dataclass(frozen=True, slots=True)
class Parts:
    """Parts of an instrument's name; None where the name does not contain it."""

    base: str
    quote: str | None
    kind: str | None = None
    expiry_ms: int | None = None
    strike: float | None = None
    option_type: str | None = None

    @property
    def currency(self) -> str:
        """The value of `currency=` that selects it: base for inverse and spot, settlement currency for linear."""
        return self.quote if self.quote and self.kind != "spot" else self.base

    @property
    def linear(self) -> bool:
        return self.quote is not None


def parse(name: str) -> Parts:
    """Parts of any name; `kind` is None if no pattern matches."""
    if match := _OPTION.fullmatch(name):
        strike = float(match["strike"].replace("d", "."))
        option_type = "call" if match["side"] == "C" else "put"
        return Parts(match["base"], match["quote"], "option", _expiry_ms(match), strike, option_type)
    if match := _FUTURE.fullmatch(name):
        expiry_ms = _expiry_ms(match) if match["day"] else NEVER_MS
        return Parts(match["base"], match["quote"], "future", expiry_ms)
    if match := _SPOT.fullmatch(name):
        return Parts(match["base"], match["quote"], "spot")
    if match := _COMBO.fullmatch(name):
        expiries_ms = [ms for each in _ANY_DATE.finditer(name) if (ms := _expiry_ms(each))]
        kind = "future_combo" if match["code"] == "FS" else "option_combo"
        return Parts(match["base"], match["quote"], kind, min(expiries_ms, default=None))
    base, _, quote = name.partition("-")[0].partition("_")
    return Parts(base, quote or None)


def date_code(expiry_ms: int) -> str:
    """The day as Deribit writes it, without padding: `5APR24`."""
    day = datetime.fromtimestamp(expiry_ms / 1000, UTC)
    return f"{day.day}{MONTHS[day.month - 1]}{day.year % 100:02d}"


def strike_code(strike: float) -> str:
    """The strike as Deribit writes it: `100000`, or `2d10` for 2.10."""
    return str(int(strike)) if strike == int(strike) else f"{strike:.2f}".replace(".", "d")


def move_dates(name: str, days: int) -> str:
    """The name with each date in it moved by `days`."""

    def moved(match: re.Match[str]) -> str:
        expiry_ms = _expiry_ms(match)
        return match[0] if expiry_ms is None else date_code(expiry_ms + days * DAY_MS)

    return _ANY_DATE.sub(moved, name)


def _expiry_ms(match: re.Match[str]) -> int | None:
    """08:00 UTC of the day in a name; None for an invalid date."""
    try:
        month = MONTHS.index(match["month"]) + 1
        day = datetime(2000 + int(match["year"]), month, int(match["day"]), 8, tzinfo=UTC)
    except ValueError:
        return None
    return int(day.timestamp()) * 1000
