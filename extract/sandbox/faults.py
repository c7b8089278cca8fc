"""Reproducible fault injection, by request number or at a random rate with a seed.

3:429,5:reset                          the third request returns 429, the fifth is reset
2-4:503                                the second to the fourth return 503
rate=0.1,kinds=429+cut,seed=7          about every tenth request fails, in one of these ways
…,retry_after=0.05,slow=0.2            seconds in the Retry-After header, seconds of delay
…,on=get_instruments                   count and fail only requests whose method contains this text
traps=holes+shift                      misleading answers of series and candles, as `extract.sandbox.traps` lists them
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from random import Random

from extract.errors import UsageError
from extract.sandbox.traps import TRAPS

API_ERRORS = {  # returned in HTTP 400, as the exchange does
    10028: "too_many_requests",
    10040: "retry",
    10041: "settlement_in_progress",
    10047: "matching_engine_queue_full",
    10066: "too_many_concurrent_requests",
    11051: "system_maintenance",
    11094: "internal_server_error",
    13028: "temporarily_unavailable",
    13888: "timed_out",
}
WIRE = {
    "cut": "the body ends before its Content-Length",
    "html": "HTTP 200 with a page of HTML",
    "reset": "the connection is reset without an answer",
    "slow": "the right response, delayed",
    "error200": "an error body in HTTP 200",
}
STATUSES = (408, 429, 500, 502, 503, 504)
KINDS = (*map(str, STATUSES), *map(str, API_ERRORS), *WIRE)
_HINT = "Write for example --faults '3:429,5:reset' or --faults 'rate=0.1,kinds=429+cut,seed=7'."


@dataclass(frozen=True, slots=True)
class Faults:
    """Faults to inject; requests are counted from 1."""

    script: Mapping[int, str] = field(default_factory=dict)
    rate: float = 0.0
    kinds: tuple[str, ...] = KINDS
    seed: int = 1
    retry_after_s: float = 0.05
    slow_s: float = 0.2
    on: str = ""
    traps: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, spec: Faults | str | None) -> Faults:
        """Parse a text as above. Raises UsageError that names the wrong part."""
        if isinstance(spec, Faults):
            return spec
        faults = cls()
        script: dict[int, str] = {}
        for part in filter(None, (each.strip() for each in (spec or "").split(","))):
            if "=" in part:
                faults = _set(faults, part)
            else:
                script.update(_scripted(part))
        return replace(faults, script=script)

    def of(self, number: int) -> str | None:
        """The fault of request `number`, or None; independent of other requests."""
        if number in self.script:
            return self.script[number]
        if not self.rate:
            return None
        draw = Random(f"{self.seed}:{number}")
        return draw.choice(self.kinds) if draw.random() < self.rate else None


def _scripted(part: str) -> dict[int, str]:
    where, colon, kind = part.partition(":")
    first, _, last = where.partition("-")
    if not colon or not first.isdecimal() or not (last or first).isdecimal() or int(first) < 1:
        raise UsageError(f"The fault '{part}' has no request number before a colon. {_HINT}")
    if int(last or first) < int(first) or int(last or first) - int(first) > 1_000_000:
        raise UsageError(f"The fault '{part}' ends before it begins, or is too long. {_HINT}")
    return dict.fromkeys(range(int(first), int(last or first) + 1), _kind(kind))


def _set(faults: Faults, part: str) -> Faults:
    name, _, value = part.partition("=")
    try:
        match name.strip():
            case "rate":
                if not 0 <= float(value) <= 1:
                    raise UsageError(f"The rate of faults is a share from 0 to 1, not '{value}'. {_HINT}")
                return replace(faults, rate=float(value))
            case "kinds":
                return replace(faults, kinds=tuple(_kind(kind) for kind in value.split("+")))
            case "seed":
                return replace(faults, seed=int(value))
            case "retry_after":
                return replace(faults, retry_after_s=_seconds(value))
            case "slow":
                return replace(faults, slow_s=_seconds(value))
            case "on":
                return replace(faults, on=value.strip())
            case "traps":
                return replace(faults, traps=frozenset(_trap(trap) for trap in value.split("+")))
    except ValueError as error:
        raise UsageError(f"'{part}' needs a number after '='. {_HINT}") from error
    raise UsageError(
        f"'{name}' is not a setting of faults; use rate, kinds, seed, retry_after, slow, on or traps. {_HINT}"
    )


def _seconds(value: str) -> float:
    seconds = float(value)
    if not 0 <= seconds <= 3600:
        raise ValueError
    return seconds


def _kind(text: str) -> str:
    kind = text.strip()
    if kind not in KINDS:
        raise UsageError(f"'{kind}' is not a kind of fault. The kinds are {', '.join(KINDS)}.")
    return kind


def _trap(text: str) -> str:
    trap = text.strip()
    if trap not in TRAPS:
        raise UsageError(f"'{trap}' is not a trap. The traps are {', '.join(TRAPS)}.")
    return trap
