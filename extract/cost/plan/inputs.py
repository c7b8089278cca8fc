"""Inputs of a cost plan by name: set by the user, measured, or taken from the reference data in the .toml files."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from functools import cache
from pathlib import Path

from extract.clickhouse.settings import MART_DATABASE
from extract.errors import UsageError

BYTES = "bytes."
SCOPE = "scope."


@dataclass(frozen=True)
class Input:
    """One figure. `source`: where it comes from, with its date if it is reference data."""

    name: str
    value: Decimal
    unit: str
    source: str


@cache
def prices() -> Mapping[str, Input]:
    """Prices of the clouds in USD, by name."""
    return _read("prices.toml")


@cache
def assumptions() -> Mapping[str, Input]:
    """Volumes and rates to use until they are measured, by name."""
    return _read("assumptions.toml")


def _read(file_name: str) -> dict[str, Input]:
    tables = tomllib.loads(Path(__file__).with_name(file_name).read_text())
    return {
        name: Input(name, Decimal(each["amount"]), each["unit"], f"{each['source']}, {each['date']}")
        for name, each in tables.items()
    }


class Inputs:
    """Inputs of one plan. A later value replaces an earlier one, except a value that the user has set."""

    def __init__(self) -> None:
        self._by_name: dict[str, Input] = {}
        self._set: set[str] = set()
        self._used: set[str] = set()
        for kind, reference in (("assumed", assumptions()), ("price", prices())):
            for each in reference.values():
                if not each.name.startswith(SCOPE):
                    self._by_name[each.name] = replace(each, source=f"{kind}: {each.source}")

    def __getitem__(self, name: str) -> Decimal:
        self._used.add(name)
        return self._by_name[name].value

    def used(self) -> list[Input]:
        """The inputs that a calculation has read, by name."""
        tables = {name for name in self._by_name if name.startswith(BYTES)}
        return [self._by_name[name] for name in sorted(self._used | tables)]

    def put(self, name: str, value: Decimal | int | float, unit: str, source: str) -> None:
        """Replace an input, unless the user has set it."""
        if name not in self._set:
            self._by_name[name] = Input(name, Decimal(str(value)), unit, source)

    def put_scope(self, scope: str) -> None:
        """Use the known volumes of a part of the exchange."""
        prefix = f"{SCOPE}{scope}."
        for each in assumptions().values():
            if each.name.startswith(prefix):
                self.put(each.name.removeprefix(prefix), each.value, each.unit, f"assumed: {each.source}")

    def put_bytes(self, measured: Mapping[str, float], source: str) -> None:
        """Replace the assumed bytes per trade by table; those of models only if some were measured."""
        if any(name.startswith(BYTES) for name in self._set):
            return
        models = f"{BYTES}{MART_DATABASE}."
        has_models = any(table.startswith(f"{MART_DATABASE}.") for table in measured)
        for name in list(self._by_name):
            if name.startswith(BYTES) and (has_models or not name.startswith(models)):
                del self._by_name[name]
        for table, each in measured.items():
            self.put(f"{BYTES}{table}", round(each, 2), "bytes a trade at rest", source)

    def bytes_by_table(self) -> dict[str, Decimal]:
        """Bytes per trade at rest, by table."""
        return {
            each.name.removeprefix(BYTES): each.value
            for each in self._by_name.values()
            if each.name.startswith(BYTES)
        }

    def is_set(self, name: str) -> bool:
        """Whether the user has set the input."""
        return name in self._set

    def set(self, assignments: Iterable[str]) -> None:
        """Apply `NAME=VALUE` assignments of the user. Raises UsageError for an unknown name or no number."""
        for assignment in assignments:
            name, _, text = assignment.partition("=")
            if name not in self._by_name:
                raise UsageError(
                    f"--set {name!r} is not an input; the inputs are {', '.join(sorted(self._by_name))}."
                )
            try:
                value = Decimal(text)
            except InvalidOperation:
                value = Decimal("NaN")
            if not value.is_finite() or value < 0:
                raise UsageError(
                    f"--set {assignment!r} has no number; write it like {name}={self._by_name[name].value}."
                )
            self._by_name[name] = Input(name, value, self._by_name[name].unit, "set by you")
            self._set.add(name)
