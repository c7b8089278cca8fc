"""One run at a time: file lock, database lease, and cleanup after an interrupted run."""

from __future__ import annotations

import fcntl
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from dlt import Pipeline
from dlt.common.pipeline import LoadInfo

from extract.clickhouse.client import Database, shared_database
from extract.clickhouse.destination import tape_clickhouse
from extract.clickhouse.lease import Lease
from extract.clickhouse.loads import PRUNED_AT_ONCE, STATES_RETAINED, delete_unfinished_loads, prune
from extract.clickhouse.refresh import refresh
from extract.clickhouse.settings import ClickHouseSettings
from extract.errors import RetriableError, UsageError
from extract.paths import tape_dir
from extract.pipeline.errors import unwrap_dlt_errors
from extract.pipeline.load import is_clean, mark_clean, open_pipeline, require_whole
from extract.pipeline.loaded import LoadedTables
from extract.source.feed import Window
from extract.source.source import deribit

MAX_WAIT_S = 5.0
"""Seconds by which the clocks of two computers may differ whose runs follow each other at once."""


@dataclass
class PipelineSession:
    """The pipeline of the only run on its database, and the lease under which it loads.

    `newest_load_id`: the newest finished load package. `tables`: the raw tables when the session began. `packages` counts
    what was loaded since.
    """

    database: Database
    pipeline: Pipeline
    lease: Lease
    newest_load_id: str | None
    tables: LoadedTables
    packages: int = 0

    @property
    def identity(self) -> tuple[Database, str]:
        """The database, and the holder of its lease."""
        return self.database, self.lease.holder

    def run(self, source: Any) -> None:
        """Extract and load one package of `source`."""
        with unwrap_dlt_errors():
            self.pipeline.extract(source)
            self.pipeline.normalize()
            self.lease.register_loads(self.pipeline.list_normalized_load_packages())
            self._note(self.pipeline.load())

    def load_window(self, window: Window) -> None:
        """Load one window. Its `before_load` has to register the package."""
        with unwrap_dlt_errors():
            self._note(self.pipeline.run(deribit(window=window)))

    def register_load(self, load_id: str) -> None:
        """Record that a load package is about to be loaded. Raises OutsideError if the lease is lost.

        The next run deletes the rows of a registered package that was never finished.
        """
        self.lease.register_loads([load_id])

    def _note(self, loaded: LoadInfo | None) -> None:
        """Count the loaded packages, and refresh the models by them."""
        if loaded and loaded.loads_ids:
            self.newest_load_id = loaded.loads_ids[-1]
            self.packages += len(loaded.loads_ids)
            refresh(self.database, loaded.loads_ids)


@contextmanager
def open_session(settings: ClickHouseSettings, holder: str | None = None) -> Iterator[PipelineSession]:
    """Take the lease, delete the rows that an interrupted run left, and open the pipeline with the stored state.

    The caller holds `run_lock`. `holder` identifies the run to others, and only one run of a holder can be active; by
    default it is this machine's TAPE_DIR. Raises AnotherRunError where another holder's run is active.
    """
    database = shared_database(settings)
    with Lease(database, holder or default_holder_id()) as lease:
        loads = delete_unfinished_loads(database)
        _require_past(loads.newest)
        was_clean = is_clean(settings, loads.newest)
        pipeline = open_pipeline(settings, loads.newest)

        def before_complete(load_id: str) -> None:
            # Without the lease, another run may have deleted rows of the package that ends.
            lease.require_held()
            require_whole(pipeline, load_id)

        cast(tape_clickhouse, pipeline.destination).before_complete = before_complete
        tables = LoadedTables(database, loads.tables)
        session = PipelineSession(database, pipeline, lease, loads.newest, tables)
        if not was_clean:
            refresh(database)  # by what a killed run has loaded
        yield session
        if loads.states + session.packages >= STATES_RETAINED + PRUNED_AT_ONCE:
            prune(database)
        mark_clean(settings, session.newest_load_id)


def _require_past(newest_load_id: str | None) -> None:
    """Raise RetriableError if the clock was ahead when the newest package was made; wait if it was by seconds.

    Load ids are times. A package that is made before the clock has reached the newest one would count as older.
    """
    newest_s = float(newest_load_id or 0)
    ahead_s = newest_s - time.time()
    if ahead_s > MAX_WAIT_S:
        at = datetime.fromtimestamp(newest_s, UTC)
        raise RetriableError(
            f"The newest load package is of {at:%Y-%m-%d %H:%M:%S} UTC, {ahead_s:,.0f} s after this computer's time: "
            "correct its clock, or run again after that time."
        )
    time.sleep(max(0.0, ahead_s))


@contextmanager
def run_lock() -> Iterator[None]:
    """Lock TAPE_DIR for one run, because two would overwrite each other's state. Raises UsageError naming the process."""
    path = tape_dir() / "run.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise UsageError(
                f"Another run is in progress (process {holder}); wait for it or stop it."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def default_holder_id(boot_id: Path = Path("/proc/sys/kernel/random/boot_id")) -> str:
    """The default holder of a lease: this machine's name and boot, a random id of its TAPE_DIR, and which directory that is.

    A copy of the directory has another device and inode, and is therefore another holder; so is a machine from the same
    image. `boot_id` is the file with a random id of each start of Linux.
    """
    path = tape_dir() / "holder"
    if not path.exists():
        path.write_text(uuid.uuid4().hex[:12])
    directory = tape_dir().stat()
    boot = boot_id.read_text().strip()[:8] if boot_id.exists() else "-"
    return f"{socket.gethostname()} {boot} {path.read_text()} {directory.st_dev:x}:{directory.st_ino:x}"
