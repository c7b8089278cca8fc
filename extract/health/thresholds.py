"""Limits of the health checks: the values at which a check warns and at which it alarms."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

HOUR_S = 3600


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


@dataclass(frozen=True)
class Thresholds:
    """Limits of each check, in the unit of its value; the `metadata` of a field names the unit and what is measured."""

    raw: Limits = field(default=_LAG, metadata={"unit": "seconds", "of": "lag of covered time"})
    marts: Limits = field(
        default=_LAG, metadata={"unit": "seconds", "of": "lag of the models behind the loads"}
    )
    push: Limits = field(default=_LAG, metadata={"unit": "seconds", "of": "lag of what is proven on cloud"})
    gaps: Limits = field(default=Limits(1, 1000), metadata={"unit": "trades", "of": "missing trades"})
    certificates: Limits = field(default=Limits(30, 7), metadata={"unit": "days", "of": "days left"})
    disk: Limits = field(default=Limits(20, 10), metadata={"unit": "per cent", "of": "per cent free"})
