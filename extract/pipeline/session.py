"""One run at a time: file lock, database lease, and recovery after an interrupted run."""

from __future__ import annotations

import fcntl
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dlt import Pipeline

from extract.clickhouse.client import shared_database
from extract.clickhouse.lease import Lease, delete_unfinished_loads
from extract.clickhouse.settings import ClickHouseSettings
from extract.errors import UsageError
from extract.paths import tape_dir
from extract.pipeline.dlt_internals import unwrap_dlt_errors
from extract.pipeline.load import open_pipeline
from extract.pipeline.recovery import recover


@dataclass(frozen=True)
class PipelineSession:
    """The pipeline of the only run on its database, and the lease under which it loads."""

    pipeline: Pipeline
    lease: Lease

    def run(self, source: Any) -> None:
        """Extract and load one package of `source`."""
        with unwrap_dlt_errors():
            self.pipeline.extract(source)
            self.pipeline.normalize()
            self.load()

    def load(self) -> None:
        """Load the packages that are ready."""
        self.register_pending_loads()
        self.pipeline.load()

    def register_pending_loads(self) -> None:
        """Record in the database which packages are about to be loaded. Raises OutsideError if the lease is lost.

        The next run deletes the rows of a registered package that was never finished.
        """
        self.lease.register_loads(
            [*self.pipeline.list_extracted_load_packages(), *self.pipeline.list_normalized_load_packages()]
        )


@contextmanager
def open_session(settings: ClickHouseSettings, holder: str | None = None) -> Iterator[PipelineSession]:
    """Take the lease and recover from an interrupted run: its packages are loaded, or their rows deleted.

    The caller holds `run_lock`. `holder` identifies the run to others, and only one run of a holder can be active; by
    default it is this machine's TAPE_DIR. Raises AnotherRunError where another holder's run is active.
    """
    database = shared_database(settings)
    with Lease(database, holder or default_holder_id()) as lease:
        # If another machine continued from the state in ClickHouse, it has loaded or will load the packages on this disk.
        pipeline = open_pipeline(settings, discard_local_state=not lease.resumes_own_run)
        session = PipelineSession(pipeline, lease)
        session.register_pending_loads()
        recover(pipeline)
        delete_unfinished_loads(database)
        yield session


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


def default_holder_id() -> str:
    """The default holder of a lease: this machine's name and a random id of its TAPE_DIR."""
    path = tape_dir() / "holder"
    if not path.exists():
        path.write_text(uuid.uuid4().hex[:12])
    return f"{socket.gethostname()} {path.read_text()}"
