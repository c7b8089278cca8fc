"""Checks of the operation: runs and their duration, push, backups, certificates and disks."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from datetime import UTC, datetime

from extract.certs.expiry import configured_certificates, stored_certificates
from extract.clickhouse.finished import LOADS
from extract.clickhouse.settings import cloud_address_if_set
from extract.errors import CannotTellError, TapeError
from extract.health.measurement import Inventory, Measurement, enumerate_names, seconds_since
from extract.paths import tape_dir
from extract.times import duration

MOST_DAYS = 3650
"""Days of disk space above which the number says nothing."""
_OBJECT_STORE_BYTES = 1 << 60
"""A disk that claims to be this large is an object store, which is never full."""


def measure_runs(inventory: Inventory) -> Measurement | None:
    """Age of the last run that succeeded, with or without new trades."""
    if "runs" in inventory.runs:
        [(at, failed, error)] = inventory.rows("last_runs")
        if at:
            text = f"the last run that succeeded ended {duration(seconds_since(at))} ago"
            if failed:
                text += f"; {failed:,} have failed since: {error}"
            return Measurement(seconds_since(at), text)
        if failed:
            return Measurement(None, f"no run has succeeded; the last one failed: {error}")
    if LOADS not in inventory.raw:
        return None
    [(at,)] = inventory.rows("last_load")
    if at:  # by a version that did not record runs
        return Measurement(seconds_since(at), f"the last load package is {duration(seconds_since(at))} old")
    raise CannotTellError("There was no run yet; run `dlt pipeline run`.")


def measure_duration(inventory: Inventory) -> Measurement | None:
    """The longest run of the last day, in per cent of its time limit; only if one had a limit."""
    if "runs" not in inventory.runs:
        return None
    [((share, limit_s), runs)] = inventory.rows("longest_run")
    if not runs:
        return None
    return Measurement(
        round(share, 1),
        f"the longest of {runs:,} runs took {share:.0f} % of its limit of {duration(limit_s)}",
    )


def measure_push(inventory: Inventory) -> Measurement:
    """Age of the oldest trades of local that were not verified on cloud."""
    if "pushes" not in inventory.raw:
        return Measurement(None, "there was no push yet; run: tape push")
    pending = inventory.rows("months_pending")
    if not pending:
        return Measurement(0, "every month of local was verified on cloud")
    lag_s = max(seconds_since(since) for _, since in pending)
    months = enumerate_names([month for month, _ in pending])
    return Measurement(
        lag_s,
        f"{len(pending):,} months are not verified on cloud, since {duration(lag_s)}: {months}; run: tape push",
    )


def measure_backup(inventory: Inventory, is_required: bool) -> Measurement | None:
    """Age of the last backup that was proven. Without any it warns if `is_required`."""
    at = inventory.rows("last_backup")[0][0] if "backups" in inventory.runs else None
    if not at:
        if is_required or "backups" in inventory.runs:
            return Measurement(0, "there is no proven backup yet; run: tape backup", is_warning=True)
        return None
    age_s = seconds_since(at)
    return Measurement(age_s, f"the last proven backup is {duration(age_s)} old")


def measure_certificates(env: Mapping[str, str]) -> Measurement | None:
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


def measure_disk(inventory: Inventory) -> Measurement:
    """Free share of the fullest disk, among ClickHouse's disks and that of TAPE_DIR."""
    directory = tape_dir()
    while not directory.exists():
        directory = directory.parent
    use = shutil.disk_usage(directory)
    shares = {f"on the disk of {directory}": 100 * use.free / use.total}
    for name, free, total in inventory.rows("disks"):
        if total:
            shares[f"on ClickHouse's disk {name}"] = 100 * free / total
    place, share = min(shares.items(), key=lambda each: each[1])
    return Measurement(round(share, 1), f"{share:.1f} % are free {place}")


def measure_disk_days(inventory: Inventory, now: datetime | None = None) -> Measurement | None:
    """Days until the fullest disk of ClickHouse is full, if it grows as fast as in the last month or in this one.

    A backfill does not count: what is at rest of the months before does not grow.
    """
    disks = [(name, free) for name, free, total in inventory.rows("disks") if 0 < total < _OBJECT_STORE_BYTES]
    if not disks:
        return None
    [(last_month, this_month)] = inventory.rows("growth")
    now = now or datetime.now(UTC)
    # The first days of a month are too few to count on.
    elapsed_days = max(3.0, (now - now.replace(day=1, hour=0, minute=0, second=0)).total_seconds() / 86_400)
    rate = max(last_month / 30, this_month / elapsed_days)
    name, free = min(disks, key=lambda each: each[1])
    days = min(free / rate, MOST_DAYS) if rate else MOST_DAYS
    if days == MOST_DAYS:
        return Measurement(MOST_DAYS, f"ClickHouse's disk {name} lasts for years")
    return Measurement(
        round(days, 1),
        f"ClickHouse's disk {name} lasts for {days:,.0f} days at {rate / 1e6:,.1f} MB a day",
    )
