"""The pipeline for one run alone: locked on this machine and in the database, and put right after whoever was cut off."""

from __future__ import annotations

import fcntl
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from extract.clickhouse.client import shared_database
from extract.clickhouse.lease import Lease, delete_unfinished_loads
from extract.clickhouse.settings import ClickHouseSettings
from extract.errors import UsageError
from extract.paths import tape_dir
from extract.pipeline.load import open_pipeline, recover, unwrap_dlt_errors

if TYPE_CHECKING:
    from dlt import Pipeline


@dataclass(frozen=True)
class PipelineSession:
    """The one pipeline that is at work, and the lease under which it loads."""

    pipeline: Pipeline
    lease: Lease

    def run(self, source: Any) -> None:
        """One whole package of `source`."""
        with unwrap_dlt_errors():
            self.pipeline.extract(source)
            self.pipeline.normalize()
            self.load()

    def load(self) -> None:
        """Loads what is ready."""
        self.register_pending_loads()
        self.pipeline.load()

    def register_pending_loads(self) -> None:
        """Has it written down what is about to be loaded. Raises OutsideError if the lease is lost."""
        self.lease.register_loads(
            [*self.pipeline.list_extracted_load_packages(), *self.pipeline.list_normalized_load_packages()]
        )


@contextmanager
def open_session(settings: ClickHouseSettings, holder: str | None = None) -> Iterator[PipelineSession]:
    """What was cut off before is loaded, or its remains are removed. The caller has `run_lock`.

    `holder` names who runs, for others to read; of one holder's runs only one can be at work. By default it is this
    machine's TAPE_DIR. Raises UsageError where a run of another machine is at work.
    """
    database = shared_database(settings)
    with Lease(database, holder or default_holder_id()) as lease:
        # If another machine went on from the state in ClickHouse, what lies here was loaded by it, or will be.
        pipeline = open_pipeline(settings, forget=not lease.resumes_own_run)
        exclusive = PipelineSession(pipeline, lease)
        exclusive.register_pending_loads()
        recover(pipeline)
        delete_unfinished_loads(database)
        yield exclusive


@contextmanager
def run_lock() -> Iterator[None]:
    """One run at a time: the state of two would overtake each other. Raises UsageError that names the holder."""
    path = tape_dir() / "run.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise UsageError(f"Another run is at work (process {holder}); wait for it or stop it.") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def default_holder_id() -> str:
    """Who holds a lease by default: the name of this machine and of its TAPE_DIR, which is known by a number of its own."""
    path = tape_dir() / "holder"
    if not path.exists():
        path.write_text(uuid.uuid4().hex[:12])
    return f"{socket.gethostname()} {path.read_text()}"
