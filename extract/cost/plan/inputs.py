"""Everything that a plan rests on, by name: what it is, and whether it was given, measured or assumed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from extract.clickhouse.settings import MART_DATABASE
from extract.cost.plan.figures import assumptions, prices
from extract.errors import UsageError

BYTES = "bytes."
MODELS = f"{MART_DATABASE}."


@dataclass(frozen=True)
class Input:
    """One figure that a plan uses. `source` says how it is known, in words that stand after it."""

    name: str
    value: Decimal
    unit: str
    source: str


class Inputs:
    """Later words win over earlier ones, and what the user sets over all of them."""

    def __init__(self) -> None:
        found = [figure for figure in assumptions().values() if not figure.name.startswith("scope.")]
        self._by_name = {
            each.name: Input(each.name, each.amount, each.unit, f"assumed: {each.said}") for each in found
        }
        for each in prices().values():
            self._by_name[each.name] = Input(each.name, each.amount, each.unit, f"price: {each.said}")
        self._fixed: set[str] = set()
        self._used: set[str] = set()

    def __getitem__(self, name: str) -> Decimal:
        self._used.add(name)
        return self._by_name[name].value

    def __iter__(self) -> Iterator[Input]:
        return iter(self._by_name.values())

    def used(self) -> list[Input]:
        """Those that something was reckoned from, by name."""
        tables = {name for name in self._by_name if name.startswith(BYTES)}
        return [self._by_name[name] for name in sorted(self._used | tables)]

    def put(self, name: str, value: Decimal | int | float, unit: str, source: str) -> None:
        """A figure that was measured or asked for, unless the user has set it."""
        if name not in self._fixed:
            self._by_name[name] = Input(name, Decimal(str(value)), unit, source)

    def put_scope(self, scope: str) -> None:
        """The volumes that are known of a part of the exchange."""
        for figure in assumptions().values():
            if figure.name.startswith(f"scope.{scope}."):
                name = figure.name.removeprefix(f"scope.{scope}.")
                self.put(name, figure.amount, figure.unit, f"assumed: {figure.said}")

    def put_bytes(self, measured: dict[str, float], source: str) -> None:
        """Bytes a trade at rest, by table, instead of what was assumed; of models only where there are any."""
        if any(name.startswith(BYTES) for name in self._fixed):
            return
        has_models = any(table.startswith(MODELS) for table in measured)
        self._by_name = {
            name: each
            for name, each in self._by_name.items()
            if not name.startswith(BYTES) or (name.startswith(f"{BYTES}{MODELS}") and not has_models)
        }
        for table, each in measured.items():
            self.put(f"{BYTES}{table}", round(each, 2), "bytes a trade at rest", source)

    def bytes_by_table(self) -> dict[str, Decimal]:
        return {each.name.removeprefix(BYTES): each.value for each in self if each.name.startswith(BYTES)}

    def is_set(self, name: str) -> bool:
        """Whether the user has."""
        return name in self._fixed

    def set(self, words: Iterable[str]) -> None:
        """`NAME=VALUE` as a user types it. Raises UsageError that names what there is."""
        for word in words:
            name, _, text = word.partition("=")
            if name not in self._by_name:
                raise UsageError(f"--set {name!r} is no input; there are {', '.join(sorted(self._by_name))}.")
            try:
                value = Decimal(text)
            except InvalidOperation:
                value = Decimal("NaN")
            if not value.is_finite() or value < 0:
                raise UsageError(f"--set {word!r} has no number; write it like {name}={self[name]}.")
            self._by_name[name] = Input(name, value, self._by_name[name].unit, "set by you")
            self._fixed.add(name)
