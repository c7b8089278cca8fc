"""Charges of both clouds in one shape: by cloud, service and kind, with the amount that may still change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import TypeVar

from extract.cost.billing.money import total
from extract.errors import TapeError, UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class Charge:
    """An amount of a bill, or the sum of all of its kind; the cloud may still change `open_usd` of it."""

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
        """Divide the days into consecutive windows of at most `most` days."""
        days = self.each()
        return [Days(days[at], days[at : at + most][-1]) for at in range(0, len(days), most)]

    def each(self) -> list[date]:
        return [self.first + timedelta(at) for at in range(len(self))]


def group_charges(charges: Iterable[Charge]) -> list[Charge]:
    """One sum for each cloud, service and kind; the most expensive kinds of a service first."""
    groups: dict[tuple[str, str, str], list[Charge]] = {}
    for charge in charges:
        groups.setdefault((charge.cloud, charge.service, charge.kind), []).append(charge)
    lines = [
        Charge(*key, total(c.usd for c in group), total(c.open_usd for c in group))
        for key, group in groups.items()
    ]
    return sorted(lines, key=lambda line: (line.cloud, line.service, -line.usd, line.kind))


def read_clouds(
    clouds: tuple[str, ...], readers: Mapping[str, Callable[[], T]]
) -> tuple[dict[str, T], dict[str, TapeError]]:
    """Call the reader of each of `clouds`: results, and errors, by cloud. The error of a single cloud is raised."""
    results: dict[str, T] = {}
    errors: dict[str, TapeError] = {}
    for cloud in clouds:
        try:
            results[cloud] = readers[cloud]()
        except TapeError as error:
            if len(clouds) == 1:
                raise
            errors[cloud] = error
    return results, errors
