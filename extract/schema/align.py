"""Compare the schemas of `local` and `cloud`: each with the models' yml, then with each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from extract.clickhouse.client import shared_database
from extract.clickhouse.settings import MART_DATABASE, RAW_DATABASE, ClickHouseSettings, clickhouse_settings
from extract.errors import CannotTellError, OutsideError
from extract.schema.catalogue import Catalogue, Properties, read_catalogue
from extract.schema.dbt_tests import Drift, fetch_drifts
from extract.source.tables import RAW_TABLES

TARGETS = ("local", "cloud")
COLUMN = "column "
TABLE = "table"
PRESENT = "there"
OPTIONAL_TABLES = {f"{RAW_DATABASE}.{table.name}" for table in RAW_TABLES.values() if table.is_optional}
"""Tables that one database may lack without being different from the other."""

Row = Sequence[str | None]
"""Texts of one property: declared, in local, in cloud."""


@dataclass(frozen=True)
class Difference:
    """A property of a table that differs; None where it does not exist. Raw tables have no declared properties."""

    table: str
    property: str
    declared: str | None
    local: str | None
    cloud: str | None

    def to_json(self) -> dict[str, Any]:
        return {
            "table": self.table,
            "thing": self.property,
            "declared": self.declared,
            "local": self.local,
            "cloud": self.cloud,
        }


def find_differences() -> list[Difference]:
    """Every difference, by table and property.

    Raises UsageError where the environment does not configure a target or a target rejects the login, CannotTellError
    where a target does not answer or has no tables yet.
    """
    targets = [clickhouse_settings(target) for target in TARGETS]
    catalogues = [_read_catalogue(settings) for settings in targets]
    with ThreadPoolExecutor() as pool:
        drifts = list(pool.map(_fetch_drifts, targets))
    return compare(catalogues, drifts)


def compare(catalogues: Sequence[Catalogue], drifts: Sequence[Sequence[Drift]]) -> list[Difference]:
    """Differences between the catalogues of local and cloud, and of each from the yml."""
    declared: Catalogue = {}
    for drift in (drift for of_target in drifts for drift in of_target):
        declared.setdefault(drift.table, {})[drift.property] = drift.declared
    local, cloud = catalogues
    differences: list[Difference] = []
    for table in sorted({*declared, *local, *cloud} - OPTIONAL_TABLES | {*local} & {*cloud}):
        sides = declared.get(table), local.get(table), cloud.get(table)
        if sides[1] and sides[2]:
            differences += _compare_table(table, sides[0] or {}, sides[1], sides[2])
        else:
            differences.append(Difference(table, TABLE, *(PRESENT if side else None for side in sides)))
    return differences


def _compare_table(
    table: str, declared: Properties, local: Properties, cloud: Properties
) -> Iterator[Difference]:
    """A column that one side lacks is one difference; its type, its codec and shifted neighbours are not reported."""
    differing = {name for name in {*local, *cloud} if local.get(name, "") != cloud.get(name, "")}
    rows: dict[str, Row] = {
        name: [side.get(name) or None for side in (declared, local, cloud)]
        for name in differing | {*declared}
    }
    sides = range(3) if declared else range(1, 3)
    columns = {name.removeprefix(COLUMN): row for name, row in rows.items() if name.startswith(COLUMN)}
    partial = {name for name, row in columns.items() if not all(row[side] for side in sides)}
    for name, row in sorted(rows.items()):
        if name.partition(" of ")[2] in partial:
            continue
        column = name.removeprefix(COLUMN)
        is_everywhere = column in columns and column not in partial
        if is_everywhere and all(_is_shifted(row, columns.values(), *two) for two in combinations(sides, 2)):
            continue
        yield Difference(table, name, *row)


def _is_shifted(row: Row, columns: Iterable[Row], a: int, b: int) -> bool:
    """Whether a column's positions on two sides differ only by the columns before it that one side lacks."""

    def count_before(side: int, other: int) -> int:
        return sum(not column[other] and 0 < int(column[side] or 0) < int(row[side] or 0) for column in rows)

    rows = list(columns)
    return int(row[b] or 0) - int(row[a] or 0) == count_before(b, a) - count_before(a, b)


def _read_catalogue(settings: ClickHouseSettings) -> Catalogue:
    with _target_errors(settings):
        catalogue = read_catalogue(shared_database(settings))
    mode = settings.mode
    if f"{RAW_DATABASE}.trades" not in catalogue:
        raise CannotTellError(f"{mode} has no raw tables yet; run: CLICKHOUSE_MODE={mode} dlt pipeline run")
    if not any(table.startswith(f"{MART_DATABASE}.") for table in catalogue):
        raise CannotTellError(f"{mode} has no models yet; run: dbt build --target {mode}")
    return catalogue


def _fetch_drifts(settings: ClickHouseSettings) -> list[Drift]:
    with _target_errors(settings):
        return fetch_drifts(shared_database(settings))


@contextmanager
def _target_errors(settings: ClickHouseSettings) -> Iterator[None]:
    """Raise CannotTellError that names the target where it does not answer."""
    try:
        yield
    except OutsideError as error:
        raise CannotTellError(f"Cannot tell, because {settings.mode} does not answer: {error}") from error
