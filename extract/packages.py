"""dlt's load packages: extracted here, loaded in a thread beside, and put right after a run that was cut off.

`Pipeline.load` cannot run beside `Pipeline.extract`: it reads the pipeline's state when it begins and writes it back
when it ends, and would undo what the extraction has committed meanwhile. So `BackgroundLoader` runs dlt's load step
by itself, which knows nothing but the packages that are ready to be loaded. Only the last package of a run is loaded
by the pipeline, which then also remembers that it ran.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import dlt
from dlt.common.configuration.container import Container
from dlt.common.configuration.inject import inject_section
from dlt.common.configuration.specs.config_section_context import ConfigSectionContext
from dlt.common.runners import run_pool
from dlt.common.storages import (
    LoadStorageConfiguration,
    NormalizeStorage,
    NormalizeStorageConfiguration,
)
from dlt.load import Load
from dlt.load.configuration import LoaderConfiguration
from dlt.pipeline.exceptions import PipelineStepFailed

from extract.clickhouse.destination import tape_clickhouse
from extract.clickhouse.settings import RAW_DATABASE, ClickHouseSettings
from extract.errors import OutsideError, TapeError
from extract.parquet_files import use_trade_files
from extract.paths import dlt_dir

if TYPE_CHECKING:
    from dlt import Pipeline

PIPELINE_NAME = "deribit_trades"
ROW_GROUP_ROWS = 100_000
"""Trades written to a file at once: fewer are dear to write and to read, more are only memory."""


def open_pipeline(settings: ClickHouseSettings) -> Pipeline:
    """The project's one dlt pipeline; its working directory is in `.tape/`, its state also in ClickHouse."""
    use_trade_files()
    dlt.config["normalize.parquet_normalizer.add_dlt_load_id"] = True
    dlt.config["data_writer.buffer_max_items"] = ROW_GROUP_ROWS
    dlt.config["load.delete_completed_jobs"] = True  # what ClickHouse has need not be kept here
    return dlt.pipeline(
        PIPELINE_NAME,
        destination=tape_clickhouse(settings),
        dataset_name=RAW_DATABASE,
        pipelines_dir=str(dlt_dir(settings.mode) / "pipelines"),
    )


def source_state(pipeline: Pipeline) -> dict[str, Any]:
    """What the source has written down; empty before a first run."""
    return dict(pipeline.state.get("sources", {}).get("deribit", {}))


def recover(pipeline: Pipeline) -> None:
    """After a run that was cut off anywhere: what it had extracted is loaded, and the state stands where the data does.

    The caller holds the lock of the run. A working directory without its database is forgotten, a database without
    its working directory is asked for the state.
    """
    _remove_remains(pipeline)
    with told():
        pipeline.sync_destination()
        if pipeline.has_pending_data:
            pipeline.normalize()
            pipeline.load()
            # The run may have ended after its package was complete and before it wrote down its state.
            pipeline.sync_destination()


def _remove_remains(pipeline: Pipeline) -> None:
    """Deletes half an extraction, and what was normalized already but not yet deleted when the run ended."""
    volume = Path(pipeline.working_dir) / "normalize"
    if not volume.is_dir():
        return
    for path in volume.iterdir():
        if path.is_dir() and path.name != NormalizeStorage.EXTRACTED_FOLDER:
            shutil.rmtree(path)
    extracted = NormalizeStorage(
        False, NormalizeStorageConfiguration(normalize_volume_path=str(volume))
    ).extracted_packages
    normalized = {*pipeline.list_normalized_load_packages(), *pipeline.list_completed_load_packages()}
    for load_id in normalized & set(pipeline.list_extracted_load_packages()):
        extracted.delete_package(load_id)


class BackgroundLoader:
    """Loads the packages that are ready, one at a time, while the caller extracts the next one."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._client_config = pipeline.destination_client().config
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._under_way: Future[None] | None = None

    def __enter__(self) -> BackgroundLoader:
        return self

    def __exit__(self, *_: object) -> None:
        """Lets the package under way be finished: it is on its way, and whole."""
        self._pool.shutdown()

    def start(self) -> None:
        """Begins to load what is ready. `wait` comes first."""
        self._under_way = self._pool.submit(self._load)

    def check(self) -> None:
        """Raises what loading has failed with, if it has; does not wait. Safe in any thread."""
        under_way = self._under_way
        if under_way is not None and under_way.done():
            with told():
                under_way.result()

    def wait(self) -> None:
        """Returns when everything begun is loaded. Raises OutsideError or what our own parts raised."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            with told():
                under_way.result()

    def _load(self) -> None:
        storage = LoadStorageConfiguration(
            load_volume_path=os.path.join(self._pipeline.working_dir, "load"), delete_completed_jobs=True
        )
        destination = self._pipeline.destination
        # dlt keeps what is in force for each thread apart.
        section = ConfigSectionContext(pipeline_name=self._pipeline.pipeline_name, sections=("load",))
        with inject_section(section), Container().injectable_context(destination.capabilities()):
            config = LoaderConfiguration(_load_storage_config=storage)
            step = Load(destination, config=config, initial_client_config=self._client_config)
            run_pool(step.config, step)


@contextmanager
def told() -> Iterator[None]:
    """dlt's wrapping around our own errors is taken off; its own become one sentence."""
    try:
        yield
    except TapeError:
        raise
    except PipelineStepFailed as error:
        _raise_told(error, error.step)
    except Exception as error:
        _raise_told(error, "load")


def _raise_told(error: Exception, step: str) -> NoReturn:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, TapeError):
            raise cause from error
        cause = cause.__cause__ or cause.__context__
    text = " ".join(str(error.__cause__ or error).split())
    raise OutsideError(f"The {step} step failed: {text}") from error
