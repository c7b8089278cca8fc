"""Records of backups and restores in `deribit_runs`, which `tape health` and the next restore read."""

from __future__ import annotations

from extract.backup.manifest import Manifest, now_ms
from extract.backup.tables import STATEMENTS
from extract.clickhouse.client import Database
from extract.clickhouse.create import create_missing
from extract.clickhouse.finished import CONSISTENT
from extract.clickhouse.settings import RUNS_DATABASE

BACKUPS = "backups"
RESTORES = "restores"


def record_backup(database: Database, location: str, manifest: Manifest) -> None:
    """Record a proven backup, with the time at which it began."""
    create_missing(database, RUNS_DATABASE, {BACKUPS: STATEMENTS["create_backups"]})
    row = {
        "at": manifest.created_at,
        "location": location,
        "rows": manifest.rows,
        "bytes": manifest.bytes,
        "is_proven": True,
    }
    database.insert(f"{RUNS_DATABASE}.{BACKUPS}", [list(row.values())], list(row))


def record_restore(database: Database, location: str, manifest: Manifest, *, is_complete: bool) -> None:
    """Record that a restore begins, or that it is complete."""
    create_missing(database, RUNS_DATABASE, {RESTORES: STATEMENTS["create_restores"]})
    row = {"at": now_ms(), "location": location, "backup": manifest.name, "is_complete": is_complete}
    database.insert(f"{RUNS_DATABASE}.{RESTORES}", [list(row.values())], list(row))


def begun_restores(database: Database) -> set[str]:
    """Names of the backups of which a restore into this server has begun."""
    if not database.value(STATEMENTS["has_restores"], None, CONSISTENT):
        return set()
    return set(database.column(STATEMENTS["begun_restores"], None, CONSISTENT))
