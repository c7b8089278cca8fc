"""Figures that are not measured here: the prices of `prices.toml` and the assumptions of `assumptions.toml`."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """`amount` of what `unit` says, where it is from and the day it was read or measured."""

    name: str
    amount: Decimal
    unit: str
    source: str
    date: date

    @property
    def said(self) -> str:
        """As a figure that uses it names it."""
        return f"{self.source}, {self.date}"


@cache
def prices() -> dict[str, Figure]:
    """In USD, by name."""
    return _read("prices.toml")


@cache
def assumptions() -> dict[str, Figure]:
    """Volumes and rates that hold until they are measured, by name."""
    return _read("assumptions.toml")


def _read(name: str) -> dict[str, Figure]:
    tables = tomllib.loads(Path(__file__).with_name(name).read_text())
    return {
        name: Figure(name, Decimal(line["amount"]), line["unit"], line["source"], line["date"])
        for name, line in tables.items()
    }
