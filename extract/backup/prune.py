"""Pruning: which backups are retained, and which files no retained backup needs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from extract.backup.manifest import FILES, Manifest, manifest_paths
from extract.errors import UsageError
from extract.export.store import Store

PERIODS: Mapping[str, Callable[[datetime], object]] = {
    "daily": lambda at: at.date(),
    "weekly": lambda at: at.isocalendar()[:2],
    "monthly": lambda at: (at.year, at.month),
    "yearly": lambda at: at.year,
}
"""Periods of `--keep`, and the period that a time is in, in UTC; weeks begin on Monday."""

Keep = Mapping[str, int]
"""How many days, weeks, months and years with a backup retain their newest one."""


def parse_keep(text: str, option: str) -> Keep:
    """`daily=7,weekly=4,monthly=12`. Raises UsageError that names `option`."""
    keep: dict[str, int] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*([a-z]+)\s*=\s*(\d+)\s*", part)
        if not match or match[1] not in PERIODS:
            raise UsageError(
                f"{option} {text!r} is not a rule of retention; write it like daily=7,weekly=4,monthly=12."
            )
        keep[match[1]] = int(match[2])
    if not any(keep.values()):
        raise UsageError(f"{option} {text!r} would retain no backup.")
    return keep


def retained(manifests: Sequence[Manifest], keep: Keep) -> list[Manifest]:
    """The backups that a rule retains, the oldest first. The newest one is always among them."""
    newest_first = sorted(manifests, key=lambda each: each.created_at, reverse=True)
    chosen = {each.name for each in newest_first[:1]}
    for period, count in keep.items():
        newest_of: dict[object, str] = {}
        for each in newest_first:
            newest_of.setdefault(PERIODS[period](each.created_at), each.name)
        chosen |= set(list(newest_of.values())[:count])
    return [each for each in reversed(newest_first) if each.name in chosen]


def prune(store: Store, manifests: Sequence[Manifest], keep: Keep) -> list[Manifest]:
    """Delete the backups that `keep` does not retain, then the files that none of the others needs; the deleted backups.

    `manifests` are all that the store has. A prune that is interrupted leaves files, which the next one deletes.
    """
    retains = retained(manifests, keep)
    deleted = [each for each in manifests if each not in retains]
    for manifest in deleted:
        store.delete(manifest.path)
    sizes = store.sizes()
    if unknown := set(manifest_paths(sizes)) - {each.path for each in retains}:
        # Another machine has written a backup meanwhile: which files it needs is not known.
        raise UsageError(
            f"{store}/{min(unknown)} was written by another backup meanwhile; nothing else was pruned."
        )
    needed = {file.path for manifest in retains for file in manifest.files}
    for path in sizes:
        if path.startswith(FILES) and path not in needed:
            store.delete(path)
    return deleted
