"""Limits of the health checks: the values at which a check warns and at which it alarms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from enum import IntEnum
from typing import Any, NamedTuple

HOUR_S = 3600
DAY_S = 24 * HOUR_S


class State(IntEnum):
    """States of a check, the most serious last."""

    OK = 0
    WARN = 1
    UNKNOWN = 2
    ALARM = 3


class Limits(NamedTuple):
    """Values at which a check warns and at which it alarms. Larger is worse, unless `alarm` is below `warn`."""

    warn: float
    alarm: float

    def classify(self, value: float) -> State:
        """OK, WARN or ALARM; a value equal to a limit has reached it."""
        sign = 1 if self.alarm >= self.warn else -1
        if sign * value >= sign * self.alarm:
            return State.ALARM
        return State.WARN if sign * value >= sign * self.warn else State.OK


_LAG = Limits(26 * HOUR_S, 50 * HOUR_S)

LOCAL_CHECKS = frozenset({"push"})
"""Checks of mode local only; a machine of AWS, whose mode is cloud, makes all others."""


def _of(what: str, unit: str) -> dict[str, str]:
    return {"unit": unit, "of": what}


@dataclass(frozen=True)
class Thresholds:
    """Limits of each check, in the unit of its value; the `metadata` of a field names the unit and what is measured.

    `requires_backup`: whether a database that was never backed up is a warning.
    """

    raw: Limits = field(default=_LAG, metadata=_of("lag of covered time", "seconds"))
    gaps: Limits = field(default=Limits(1, 1000), metadata=_of("missing trades", "trades"))
    series: Limits = field(default=Limits(1, 1000), metadata=_of("missing rows of series", "rows"))
    series_lag: Limits = field(default=_LAG, metadata=_of("age of the newest row of a series", "seconds"))
    marts: Limits = field(default=_LAG, metadata=_of("lag of the models behind the loads", "seconds"))
    candles: Limits = field(
        default=Limits(HOUR_S, DAY_S),
        metadata=_of("lag of a candle level behind the trades of the models", "seconds"),
    )
    levels: Limits = field(
        default=Limits(1, 100),
        metadata=_of("candles that differ from those of the finer level", "candles"),
    )
    rejected: Limits = field(
        default=Limits(1, 1000),
        metadata=_of("records of the last day that could not be typed", "rows"),
    )
    fields: Limits = field(
        default=Limits(1, 20), metadata=_of("new fields of the last day that no column has", "fields")
    )
    streams: Limits = field(
        default=Limits(1, 50),
        metadata=_of("currencies and kinds that are new this week", "streams"),
    )
    schema: Limits = field(
        default=Limits(1, 1), metadata=_of("columns that differ from the declared ones", "columns")
    )
    runs: Limits = field(default=_LAG, metadata=_of("age of the last run that succeeded", "seconds"))
    duration: Limits = field(
        default=Limits(80, 130),
        metadata=_of("longest run of the last day in per cent of its time limit", "per cent"),
    )
    verify: Limits = field(
        default=Limits(1, 100), metadata=_of("bars that `tape verify` could not explain", "bars")
    )
    verify_age: Limits = field(
        default=Limits(8 * DAY_S, 15 * DAY_S),
        metadata=_of("age of the last `tape verify`", "seconds"),
    )
    push: Limits = field(default=_LAG, metadata=_of("lag of what is proven on cloud", "seconds"))
    backup: Limits = field(default=_LAG, metadata=_of("age of the last proven backup", "seconds"))
    certificates: Limits = field(default=Limits(30, 7), metadata=_of("days left", "days"))
    disk: Limits = field(default=Limits(20, 10), metadata=_of("per cent free", "per cent"))
    disk_days: Limits = field(
        default=Limits(30, 7),
        metadata=_of("days until a disk is full at the present rate", "days"),
    )
    requires_backup: bool = False


def limit_fields() -> Mapping[str, Field[Any]]:
    """The fields of Thresholds with limits, by name of the check: `series-lag` for `series_lag`."""
    return {
        each.name.replace("_", "-"): each for each in fields(Thresholds) if isinstance(each.default, Limits)
    }
