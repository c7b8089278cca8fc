"""Is all as fresh and as sound as it should be? One answer each for what can go stale, run full or run out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from clickhouse_connect.driver.client import Client

from extract.certs.expiry import configured_certificates, stored_certificates
from extract.clickhouse.client import shared_client
from extract.clickhouse.settings import clickhouse_settings, cloud_address_if_set
from extract.coverage.gaps import EVERYTHING, Scope, query_rows
from extract.coverage.status import StreamStatus, status
from extract.errors import CannotTellError, TapeError
from extract.health.checks_sql import DISKS, LEDGER, MODELS_PENDING, MONTHS_PENDING
from extract.health.thresholds import Limits, State, Thresholds
from extract.paths import tape_dir
from extract.times import duration


@dataclass(frozen=True)
class Check:
    """`value` in `unit`: seconds, trades, days or per cent; None where it cannot be told, which is never ok."""

    check: str
    state: State
    value: float | None
    unit: str
    text: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"state": self.state.name.lower()}


def health(
    thresholds: Thresholds, scope: Scope = EVERYTHING, env: Mapping[str, str] = os.environ
) -> list[Check]:
    """One check each: raw, marts, gaps and disk; push where local has a cloud to push to; certificates where there are any.

    `scope`: the streams whose lag and gaps count. Raises UsageError for an environment that names no database.
    """
    settings = clickhouse_settings()
    found = [*_of_streams(thresholds, scope, lambda: shared_client(settings))]
    found.append(_told("marts", "seconds", lambda: _marts(thresholds.marts, shared_client(settings))))
    if settings.mode == "local" and env.get("CLICKHOUSE_CLOUD_HOST"):
        found.append(_told("push", "seconds", lambda: _push(thresholds.push, shared_client(settings))))
    found += _certificates(thresholds.certificates)
    found.append(_told("disk", "per cent", lambda: _disk(thresholds.disk, shared_client(settings))))
    return found


def exit_code(checks: list[Check]) -> int:
    """1 for an alarm, else 2 if something cannot be told, else 0."""
    worst = max(check.state for check in checks)
    return {State.ALARM: 1, State.UNKNOWN: CannotTellError.exit_code}.get(worst, 0)


def _told(name: str, unit: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except (TapeError, OSError) as error:
        return Check(name, State.UNKNOWN, None, unit, f"cannot tell: {error}")


def _of_streams(thresholds: Thresholds, scope: Scope, client: Callable[[], Client]) -> Iterator[Check]:
    try:
        streams = [each for each in status(client()) if _is_in(each, scope)]
        if not streams:
            raise CannotTellError(f"No time is covered of what was asked for; run `{scope.command}`.")
    except TapeError as error:
        for name, unit in (("raw", "seconds"), ("gaps", "trades")):
            yield Check(name, State.UNKNOWN, None, unit, f"cannot tell: {error}")
        return
    oldest = max(streams, key=lambda each: each.lag_seconds)
    lag = oldest.lag_seconds
    text = f"covered time of {oldest.stream} ends {duration(lag)} ago"
    yield Check("raw", thresholds.raw.classify(lag), lag, "seconds", text)
    missing = sum(each.missing for each in streams)
    text = f"{missing:,} trades are missing; `tape repair` fetches them" if missing else "nothing is missing"
    yield Check("gaps", thresholds.gaps.classify(missing), missing, "trades", text)


def _is_in(each: StreamStatus, scope: Scope) -> bool:
    return (not scope.currencies or each.stream.currency in scope.currencies) and (
        not scope.kinds or each.stream.kind in scope.kinds
    )


def _marts(limits: Limits, client: Client) -> Check:
    """Since when a finished load package waits to be taken in by a model."""
    if not query_rows(client, LEDGER) or not (rows := query_rows(client, MODELS_PENDING)):
        raise CannotTellError("There are no models yet; run: dbt build")
    pending = {model: (count, since) for model, count, since in rows if count}
    if not pending:
        return Check("marts", State.OK, 0, "seconds", "every finished load package is in every model")
    model = min(pending, key=lambda name: pending[name][1])
    count, since = pending[model]
    lag = _seconds_since(since)
    text = f"{count:,} load packages wait for {model}, since {duration(lag)}; run: dbt build"
    return Check("marts", limits.classify(lag), lag, "seconds", text)


def _push(limits: Limits, client: Client) -> Check:
    """Since when a month of local holds something that was not proven to be on cloud."""
    if not query_rows(
        client, "select 1 from system.tables where database = 'deribit_raw' and name = 'pushes'"
    ):
        return Check("push", State.ALARM, None, "seconds", "nothing was ever pushed; run: tape push")
    pending = query_rows(client, MONTHS_PENDING)
    if not pending:
        return Check("push", State.OK, 0, "seconds", "every month of local was proven to be on cloud")
    lag = max(_seconds_since(since) for _, since in pending)
    months = ", ".join(month for month, _ in pending[:3]) + (", …" if len(pending) > 3 else "")
    text = f"{len(pending):,} months are not proven on cloud, since {duration(lag)}: {months}; run: tape push"
    return Check("push", limits.classify(lag), lag, "seconds", text)


def _certificates(limits: Limits) -> Iterator[Check]:
    """The one that runs out first; one that cannot be read, or is not as it should be, comes before all."""
    try:
        lives = [*configured_certificates(cloud_address_if_set()), *stored_certificates()]
    except (TapeError, OSError) as error:
        yield Check("certificates", State.ALARM, None, "days", f"cannot be read: {error}")
        return
    if not lives:
        return
    worst = min(
        lives, key=lambda life: (life.problem is None, life.days_left if life.days_left is not None else -1)
    )
    if worst.problem or worst.days_left is None:
        text = f"{worst.name}: {worst.problem or 'cannot be read'}"
        yield Check("certificates", State.ALARM, worst.days_left, "days", text)
        return
    text = f"{worst.name} has {worst.days_left:,} days left ({worst.source})"
    yield Check("certificates", limits.classify(worst.days_left), worst.days_left, "days", text)


def _disk(limits: Limits, client: Client) -> Check:
    """The fullest: where our own directory lies, and ClickHouse's."""
    directory = tape_dir()
    while not directory.exists():
        directory = directory.parent
    use = shutil.disk_usage(directory)
    shares = {f"where {directory} lies": 100 * use.free / use.total}
    for name, free, total in query_rows(client, DISKS):
        if total:
            shares[f"on ClickHouse's disk {name}"] = 100 * free / total
    place = min(shares, key=lambda name: shares[name])
    share = round(shares[place], 1)
    return Check("disk", limits.classify(share), share, "per cent", f"{share:.1f} % are free {place}")


def _seconds_since(at: datetime) -> float:
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, round((datetime.now(UTC) - at).total_seconds()))
