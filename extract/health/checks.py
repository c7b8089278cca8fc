"""Health checks: lag of trades, models and push, missing trades, certificates, free disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any, NamedTuple

from extract.certs.expiry import configured_certificates, stored_certificates
from extract.clickhouse.client import Database, shared_database
from extract.clickhouse.settings import MART_DATABASE, RAW_DATABASE, clickhouse_settings, cloud_address_if_set
from extract.clickhouse.statements import load_statements
from extract.coverage.gaps import EVERYTHING, Scope
from extract.coverage.status import StreamStatus, fetch_status
from extract.errors import CannotTellError, TapeError
from extract.health.thresholds import Limits, State, Thresholds
from extract.paths import tape_dir
from extract.times import duration

_STATEMENTS = load_statements(__file__, "checks.sql")

UNITS: Mapping[str, str] = {each.name: each.metadata["unit"] for each in fields(Thresholds)}


class Measurement(NamedTuple):
    """Value of a check in the unit of its limits. Without a value, or if `is_broken`, the check alarms."""

    value: float | None
    text: str
    is_broken: bool = False


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


def run_checks(
    thresholds: Thresholds | None = None, scope: Scope = EVERYTHING, env: Mapping[str, str] = os.environ
) -> list[Check]:
    """Run the checks raw, gaps, marts and disk; push where local has a cloud target; certificates where there are any.

    `scope`: the streams of raw and gaps. Raises UsageError where the environment does not name a database.
    """
    settings = clickhouse_settings(env=env)
    with ThreadPoolExecutor() as pool:  # a result, or an error, is shared by the checks that need it
        database = pool.submit(shared_database, settings)
        streams = pool.submit(lambda: _covered_streams(database.result(), scope))
    measures: dict[str, Callable[[], Measurement | None]] = {
        "raw": lambda: _measure_raw(streams.result()),
        "gaps": lambda: _measure_gaps(streams.result()),
        "marts": lambda: _measure_marts(database.result()),
        "push": lambda: _measure_push(database.result()),
        "certificates": lambda: _measure_certificates(env),
        "disk": lambda: _measure_disk(database.result()),
    }
    if settings.mode != "local" or not env.get("CLICKHOUSE_CLOUD_HOST"):
        del measures["push"]
    checks = (_run(name, thresholds or Thresholds(), measure) for name, measure in measures.items())
    return [check for check in checks if check]


def exit_code(checks: list[Check]) -> int:
    """1 for an alarm, else 2 if a check is unknown, else 0."""
    worst = max(check.state for check in checks)
    return {State.ALARM: 1, State.UNKNOWN: CannotTellError.exit_code}.get(worst, 0)


def _run(name: str, thresholds: Thresholds, measure: Callable[[], Measurement | None]) -> Check | None:
    limits: Limits = getattr(thresholds, name)
    try:
        measurement = measure()
    except (TapeError, OSError) as error:
        return Check(name, State.UNKNOWN, None, UNITS[name], f"cannot tell: {error}")
    if measurement is None:
        return None
    value, text, is_broken = measurement
    state = State.ALARM if is_broken or value is None else limits.classify(value)
    return Check(name, state, value, UNITS[name], text)


def _covered_streams(database: Database, scope: Scope) -> list[StreamStatus]:
    streams = [each for each in fetch_status(database) if scope.includes(each.stream)]
    if not streams:
        raise CannotTellError(f"No time is covered for these streams; run `{scope.command}`.")
    return streams


def _measure_raw(streams: list[StreamStatus]) -> Measurement:
    """Lag of the stream whose covered time ends first."""
    oldest = max(streams, key=lambda each: each.lag_seconds)
    lag_s = oldest.lag_seconds
    return Measurement(lag_s, f"covered time of {oldest.stream} ends {duration(lag_s)} ago")


def _measure_gaps(streams: list[StreamStatus]) -> Measurement:
    missing = sum(each.missing for each in streams)
    text = f"{missing:,} trades are missing; `tape repair` fetches them" if missing else "nothing is missing"
    return Measurement(missing, text)


def _measure_marts(database: Database) -> Measurement:
    """Age of the oldest finished load package that a model has not consumed."""
    rows = _has_table(database, f"{MART_DATABASE}.load_ledger") and database.rows(
        _STATEMENTS["models_pending"]
    )
    if not rows:
        raise CannotTellError("There are no models yet; run: dbt build")
    pending = [(since, model, count) for model, count, since in rows if count]
    if not pending:
        return Measurement(0, "every model has consumed every finished load package")
    since, model, count = min(pending)
    lag_s = _seconds_since(since)
    return Measurement(
        lag_s, f"{count:,} load packages wait for {model}, since {duration(lag_s)}; run: dbt build"
    )


def _measure_push(database: Database) -> Measurement:
    """Age of the oldest trades of local that were not verified on cloud."""
    if not _has_table(database, f"{RAW_DATABASE}.pushes"):
        return Measurement(None, "there was no push yet; run: tape push")
    pending = database.rows(_STATEMENTS["months_pending"])
    if not pending:
        return Measurement(0, "every month of local was verified on cloud")
    lag_s = max(_seconds_since(since) for _, since in pending)
    months = ", ".join(month for month, _ in pending[:3]) + (", …" if len(pending) > 3 else "")
    return Measurement(
        lag_s,
        f"{len(pending):,} months are not verified on cloud, since {duration(lag_s)}: {months}; run: tape push",
    )


def _measure_certificates(env: Mapping[str, str]) -> Measurement | None:
    """Days left of the certificate that expires first; one that is unreadable or invalid precedes all others."""
    try:
        certificates = [*configured_certificates(cloud_address_if_set(env), env), *stored_certificates()]
    except (TapeError, OSError) as error:
        return Measurement(None, f"cannot be read: {error}")
    if not certificates:
        return None
    worst = min(
        certificates,
        key=lambda each: (each.problem is None, -1 if each.days_left is None else each.days_left),
    )
    if worst.problem or worst.days_left is None:
        return Measurement(
            worst.days_left, f"{worst.name}: {worst.problem or 'cannot be read'}", is_broken=True
        )
    return Measurement(worst.days_left, f"{worst.name} has {worst.days_left:,} days left ({worst.source})")


def _measure_disk(database: Database) -> Measurement:
    """Free share of the fullest disk, among ClickHouse's disks and that of TAPE_DIR."""
    directory = tape_dir()
    while not directory.exists():
        directory = directory.parent
    use = shutil.disk_usage(directory)
    shares = {f"on the disk of {directory}": 100 * use.free / use.total}
    for name, free, total in database.rows(_STATEMENTS["disks"]):
        if total:
            shares[f"on ClickHouse's disk {name}"] = 100 * free / total
    place, share = min(shares.items(), key=lambda each: each[1])
    return Measurement(round(share, 1), f"{share:.1f} % are free {place}")


def _has_table(database: Database, table: str) -> bool:
    return bool(database.value(_STATEMENTS["has_table"], {"table": table}))


def _seconds_since(at: datetime) -> float:
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, round((datetime.now(UTC) - at).total_seconds()))
