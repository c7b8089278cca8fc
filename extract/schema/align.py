"""Are `local` and `cloud` the same database? Each is held against the models' yml, then the two against each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from clickhouse_connect.driver.exceptions import ClickHouseError

from extract.clickhouse.client import shared_client
from extract.clickhouse.errors import to_tape_error
from extract.clickhouse.settings import MART_DATABASE, RAW_DATABASE, ClickHouseSettings, clickhouse_settings
from extract.errors import CannotTellError, OutsideError
from extract.schema.catalogue import Catalogue, Things, read_catalogue
from extract.schema.dbt_tests import Drift, SchemaTests
from extract.source.tables import RAW_TABLES

TARGETS = ("local", "cloud")
COLUMN = "column "
TABLE = "table"
THERE = "there"
MADE_WITH_FIRST_ROW = {f"{RAW_DATABASE}.{table.name}" for table in RAW_TABLES.values() if table.is_optional}
"""Tables that one database may lack without being different from the other."""

Row = Sequence[str | None]
"""One thing as declared, local and cloud have it."""


@dataclass(frozen=True)
class Difference:
    """One thing of a table that is not the same everywhere; None is none. Raw tables are declared nowhere."""

    table: str
    thing: str
    declared: str | None
    local: str | None
    cloud: str | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def align() -> list[Difference]:
    """Every difference, by table and thing.

    Raises UsageError where the environment does not say where a target is or is refused there, CannotTellError where
    a target does not answer, or has no tables yet.
    """
    targets = [clickhouse_settings(target) for target in TARGETS]
    catalogues = [_catalogue(settings) for settings in targets]
    with _running(targets) as tests:
        drifts = [_drifts(test) for test in tests]
    return differences(catalogues, drifts)


def differences(catalogues: Sequence[Catalogue], drifts: Sequence[Sequence[Drift]]) -> list[Difference]:
    """What differs between the catalogues of local and cloud, and what is otherwise than the yml says."""
    declared: Catalogue = {}
    for drift in (drift for found in drifts for drift in found):
        declared.setdefault(drift.table, {})[drift.thing] = drift.declared
    local, cloud = catalogues
    found: list[Difference] = []
    for table in sorted({*declared, *local, *cloud} - MADE_WITH_FIRST_ROW | {*local} & {*cloud}):
        sides = declared.get(table), local.get(table), cloud.get(table)
        if sides[1] and sides[2]:
            found += _of_table(table, sides[0] or {}, sides[1], sides[2])
        else:
            found.append(Difference(table, TABLE, *(THERE if side else None for side in sides)))
    return found


def _of_table(table: str, declared: Things, local: Things, cloud: Things) -> Iterator[Difference]:
    """A column that is not everywhere is one difference, and not also those of its type, its codec and its neighbours."""
    differing = {thing for thing in {*local, *cloud} if local.get(thing, "") != cloud.get(thing, "")}
    rows: dict[str, Row] = {
        thing: [side.get(thing) or None for side in (declared, local, cloud)]
        for thing in differing | {*declared}
    }
    sides = range(3) if declared else range(1, 3)
    columns = {thing.removeprefix(COLUMN): row for thing, row in rows.items() if thing.startswith(COLUMN)}
    partial = {name for name, row in columns.items() if not all(row[side] for side in sides)}
    for thing, row in sorted(rows.items()):
        if thing.partition(" of ")[2] in partial:
            continue
        name = thing.removeprefix(COLUMN)
        is_everywhere = name in columns and name not in partial
        if is_everywhere and all(
            _is_only_shifted(row, columns.values(), *two) for two in combinations(sides, 2)
        ):
            continue
        yield Difference(table, thing, *row)


def _is_only_shifted(row: Row, columns: Iterable[Row], a: int, b: int) -> bool:
    """Whether a column's two positions differ by no more than the columns before it that only one side has."""
    at_a, at_b = int(row[a] or 0), int(row[b] or 0)
    others = list(columns)
    more = sum(1 for other in others if not other[a] and other[b] and int(other[b]) < at_b)
    fewer = sum(1 for other in others if other[a] and not other[b] and int(other[a]) < at_a)
    return at_b - at_a == more - fewer


def _catalogue(settings: ClickHouseSettings) -> Catalogue:
    with _told(settings):
        catalogue = read_catalogue(shared_client(settings))
    mode = settings.mode
    if f"{RAW_DATABASE}.trades" not in catalogue:
        raise CannotTellError(f"{mode} has no raw tables yet; run: CLICKHOUSE_MODE={mode} dlt pipeline run")
    if not any(table.startswith(f"{MART_DATABASE}.") for table in catalogue):
        raise CannotTellError(f"{mode} has no models yet; run: dbt build --target {mode}")
    return catalogue


def _drifts(test: SchemaTests) -> list[Drift]:
    with _told(test.settings):
        return test.drifts(shared_client(test.settings))


@contextmanager
def _told(settings: ClickHouseSettings) -> Iterator[None]:
    """A target that does not answer leaves the question open: the sentence says which, and why."""
    try:
        yield
    except (OutsideError, ClickHouseError, OSError) as error:
        reason = to_tape_error(error, settings)
        if not isinstance(reason, OutsideError):
            raise reason from error
        raise CannotTellError(f"Cannot tell, for {settings.mode} gives no answer: {reason}") from error


@contextmanager
def _running(targets: Sequence[ClickHouseSettings]) -> Iterator[list[SchemaTests]]:
    """Both targets' tests side by side; none outlives the block."""
    tests: list[SchemaTests] = []
    try:
        for settings in targets:
            tests.append(SchemaTests(settings))
        yield tests
    finally:
        for test in tests:
            test.stop()
