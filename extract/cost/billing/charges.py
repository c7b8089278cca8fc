"""A bill as both clouds have it: charges by cloud, service and kind, some of which may still change."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal

from extract.cost.billing.money import total
from extract.errors import UsageError


@dataclass(frozen=True)
class Charge:
    """One amount of one bill. `is_final`: the cloud will not change it any more."""

    cloud: str
    service: str
    kind: str
    usd: Decimal
    is_final: bool


@dataclass(frozen=True)
class Line:
    """All charges of one kind: the exact sum, and how much of it may still change."""

    cloud: str
    service: str
    kind: str
    usd: Decimal
    open_usd: Decimal


@dataclass(frozen=True)
class Days:
    """UTC days from `first` to `last`, both included."""

    first: date
    last: date

    def __post_init__(self) -> None:
        if self.first > self.last:
            raise UsageError(f"The first day, {self.first}, is after the last, {self.last}; swap them.")

    def __len__(self) -> int:
        return (self.last - self.first).days + 1

    def __str__(self) -> str:
        return f"{self.first} to {self.last}"

    def windows(self, most: int) -> list[Days]:
        """The same days in stretches of at most `most` days, in order, none twice."""
        firsts = range(0, len(self), most)
        return [
            Days(self.first + timedelta(at), min(self.last, self.first + timedelta(at + most - 1)))
            for at in firsts
        ]

    def each(self) -> list[date]:
        return [self.first + timedelta(at) for at in range(len(self))]


def lines(charges: Iterable[Charge]) -> list[Line]:
    """One line for each cloud, service and kind; within a service the dearest first."""
    groups: dict[tuple[str, str, str], list[Charge]] = {}
    for charge in charges:
        groups.setdefault((charge.cloud, charge.service, charge.kind), []).append(charge)
    found = [
        Line(*key, total(c.usd for c in group), total(c.usd for c in group if not c.is_final))
        for key, group in groups.items()
    ]
    return sorted(found, key=lambda line: (line.cloud, line.service, -line.usd, line.kind))
