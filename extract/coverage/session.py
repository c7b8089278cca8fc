"""Session of a repair or a fetch of last trades: exchange, database and pipeline, opened together."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from extract.clickhouse.client import Database, shared_database
from extract.clickhouse.settings import clickhouse_settings
from extract.deribit.client import DeribitClient
from extract.deribit.config import DeribitConfig, deribit_config
from extract.errors import OutsideError, TapeError
from extract.pipeline.session import PipelineSession, open_session, run_lock
from extract.sweep.windows import require_same_time


@dataclass(frozen=True)
class CoverageSession:
    """An exchange client, and a database into which only this process loads."""

    config: DeribitConfig
    client: DeribitClient
    database: Database
    pipeline: PipelineSession

    def require_exchange(self) -> None:
        """Raise OutsideError early where the exchange cannot be reached, FinalError where its clock differs too much.

        The times at which trades were absent, and last trades were answered, are of this machine.
        """
        now_ms = self.client.now_ms()
        if not self.client.is_sandbox:
            require_same_time(now_ms, time.time() * 1000)


@contextmanager
def open_coverage_session() -> Iterator[CoverageSession]:
    """Connect as the environment configures. Raises UsageError where another run is in progress."""
    settings, config = clickhouse_settings(), deribit_config()
    database = shared_database(settings)
    with run_lock(), DeribitClient(config) as client, open_session(settings) as pipeline:
        yield CoverageSession(config, client, database, pipeline)


class InstrumentsSetAsideError(OutsideError):
    """The exchange's answers about some instruments could not be used; all others were fetched."""


def require_none_set_aside(set_aside: Mapping[str, TapeError]) -> None:
    """Raise InstrumentsSetAsideError if instruments were set aside, with the reason of the first one."""
    if set_aside:
        (name, error), *others = set_aside.items()
        also = f" ({len(others):,} more were set aside as well)" if others else ""
        raise InstrumentsSetAsideError(
            f"{name} was set aside: {str(error).rstrip('.')}{also}. All others were fetched; the same command tries again."
        )
