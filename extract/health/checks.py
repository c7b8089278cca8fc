"""Health checks of a database and of what surrounds it: `run_checks` runs them, a module measures each group of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

from extract.clickhouse.client import shared_database
from extract.clickhouse.finished import unfinished_loads
from extract.clickhouse.settings import clickhouse_settings
from extract.coverage.gaps import EVERYTHING, Scope
from extract.coverage.series import fetch_series_status
from extract.coverage.status import fetch_status
from extract.errors import CannotTellError, TapeError, UsageError
from extract.health import arrivals, coverage, models, operation
from extract.health.measurement import Inventory, Measurement
from extract.health.thresholds import LOCAL_CHECKS, Limits, State, Thresholds, limit_fields

_FIELDS = limit_fields()
T = TypeVar("T")


@dataclass(frozen=True)
class Check:
    """Result of a check. `value` is in `unit`; None where it cannot be measured, which is never ok."""

    check: str
    state: State
    value: float | None
    unit: str
    text: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"state": self.state.name.lower()}


class _Shared(Generic[T]):
    """A value, or an error, that the first of the threads that need it computes for all."""

    def __init__(self, compute: Callable[[], T]) -> None:
        self._compute = compute
        self._lock = threading.Lock()
        self._outcome: Future[T] = Future()

    def __call__(self) -> T:
        with self._lock:
            if not self._outcome.done():
                try:
                    self._outcome.set_result(self._compute())
                except Exception as error:
                    self._outcome.set_exception(error)
        return self._outcome.result()


def run_checks(
    thresholds: Thresholds | None = None,
    scope: Scope = EVERYTHING,
    env: Mapping[str, str] = os.environ,
    only: Collection[str] = (),
) -> list[Check]:
    """Run every check that has something to check, in the order of Thresholds.

    For example verify after a `tape verify`, push where local has a cloud target, certificates where there are any.
    `scope`: the streams of raw, gaps and series. `only`: names of the checks to run, all by default. Raises UsageError
    where the environment does not name a database, and for a kind that does not exist.
    """
    _require_kinds(scope, env)
    thresholds = thresholds or Thresholds()
    settings = clickhouse_settings(env=env)
    database = _Shared(lambda: shared_database(settings))
    tables = _Shared(lambda: Inventory.read(database()))
    streams = _Shared(lambda: coverage.covered_streams(database(), scope))
    series = _Shared(lambda: fetch_series_status(database(), scope))
    verified = _Shared(lambda: models.read_candle_checks(tables()))
    measures: dict[str, Callable[[], Measurement | None]] = {
        "raw": lambda: coverage.measure_raw(streams()),
        "gaps": lambda: coverage.measure_gaps(
            streams(), unfinished_loads(database()), coverage.describe_unproven(database(), scope)
        ),
        "series": lambda: coverage.measure_series(database(), scope, series()),
        "series-lag": lambda: coverage.measure_series_lag(series()),
        "marts": lambda: models.measure_marts(tables()),
        "candles": lambda: models.measure_candles(tables()),
        "levels": lambda: models.measure_levels(tables()),
        "rejected": lambda: arrivals.measure_rejected(tables()),
        "fields": lambda: arrivals.measure_fields(tables()),
        "streams": lambda: arrivals.measure_streams(tables()),
        "schema": lambda: arrivals.measure_schema(tables()),
        "runs": lambda: operation.measure_runs(tables()),
        "duration": lambda: operation.measure_duration(tables()),
        "verify": lambda: models.measure_verify(verified()),
        "verify-age": lambda: models.measure_verify_age(verified()),
        "push": lambda: operation.measure_push(tables()),
        "backup": lambda: operation.measure_backup(tables(), thresholds.requires_backup),
        "certificates": lambda: operation.measure_certificates(env),
        "disk": lambda: operation.measure_disk(tables()),
        "disk-days": lambda: operation.measure_disk_days(tables()),
    }
    if not env.get("CLICKHOUSE_CLOUD_HOST"):
        del measures["push"]
    left_out = frozenset() if settings.mode == "local" else LOCAL_CHECKS
    names = [name for name in measures if name not in left_out and (not only or name in only)]
    with ThreadPoolExecutor(8) as pool:
        checks = list(pool.map(lambda name: _run(thresholds, name, measures[name]), names))
    return [check for check in checks if check]


def _require_kinds(scope: Scope, env: Mapping[str, str]) -> None:
    try:
        scope.require_kinds(())
    except UsageError:  # it may be new, and loaded
        loaded = set()
        with suppress(TapeError):
            loaded = {
                each.stream.kind for each in fetch_status(shared_database(clickhouse_settings(env=env)))
            }
        scope.require_kinds(loaded)


def exit_code(checks: list[Check]) -> int:
    """1 for an alarm, else 2 if a check is unknown, else 0."""
    worst = max((check.state for check in checks), default=State.OK)
    return {State.ALARM: 1, State.UNKNOWN: CannotTellError.exit_code}.get(worst, 0)


def _run(thresholds: Thresholds, name: str, measure: Callable[[], Measurement | None]) -> Check | None:
    field = _FIELDS[name]
    limits: Limits = getattr(thresholds, field.name)
    unit = field.metadata["unit"]
    try:
        measurement = measure()
    except (TapeError, OSError) as error:
        return Check(name, State.UNKNOWN, None, unit, f"cannot tell: {error}")
    if measurement is None:
        return None
    value, text, is_broken, is_warning = measurement
    state = State.ALARM if is_broken or value is None else limits.classify(value)
    return Check(name, max(state, State.WARN) if is_warning else state, value, unit, text)
