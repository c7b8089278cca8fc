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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import dlt
from dlt.common.configuration.container import Container
from dlt.common.configuration.inject import inject_section
from dlt.common.configuration.specs.config_section_context import ConfigSectionContext
from dlt.common.runners import run_pool
from dlt.common.storages import (
    LoadStorage,
    LoadStorageConfiguration,
    NormalizeStorage,
    NormalizeStorageConfiguration,
)
from dlt.load import Load
from dlt.load.configuration import LoaderConfiguration
from dlt.pipeline.exceptions import PipelineStepFailed

from extract.clickhouse.client import shared_client
from extract.clickhouse.destination import tape_clickhouse
from extract.clickhouse.settings import RAW_DATABASE, ClickHouseSettings
from extract.errors import OutsideError, TapeError
from extract.paths import dlt_dir
from extract.pipeline.dlt_internals import use_trade_files

if TYPE_CHECKING:
    from dlt import Pipeline

PIPELINE_NAME = "deribit_trades"
ROW_GROUP_ROWS = 100_000
"""Trades written to a file at once: fewer are dear to write and to read, more are only memory."""
LOADED_KEPT = 10
"""Packages whose account stays here for `dlt pipeline info`; of a run a minute half a million a year would stay."""


def open_pipeline(settings: ClickHouseSettings, *, forget: bool = False) -> Pipeline:
    """The project's one dlt pipeline; its working directory is in `.tape/`, its state also in ClickHouse.

    The caller has `run_lock`: what a run that was killed left half done in the directory is put right. A directory
    whose database is gone is forgotten, as is any with `forget`.
    """
    pipelines = dlt_dir(settings.mode) / "pipelines"
    if forget or not _has_database(settings):
        delete_working_directory(pipelines / PIPELINE_NAME)
    repair_working_directory(pipelines / PIPELINE_NAME)
    use_trade_files()
    dlt.config["normalize.parquet_normalizer.add_dlt_load_id"] = True
    dlt.config["data_writer.buffer_max_items"] = ROW_GROUP_ROWS
    dlt.config["load.delete_completed_jobs"] = True  # what ClickHouse has need not be kept here
    return dlt.pipeline(
        PIPELINE_NAME,
        destination=tape_clickhouse(settings),
        dataset_name=RAW_DATABASE,
        pipelines_dir=str(pipelines),
    )


def _has_database(settings: ClickHouseSettings) -> bool:
    sql = "SELECT count() FROM system.databases WHERE name = {name:String}"
    return bool(shared_client(settings).command(sql, {"name": RAW_DATABASE}))


def delete_working_directory(directory: Path) -> None:
    """Moved away first: dlt takes a directory that is half removed for a whole one."""
    aside = directory.parent.parent / "forgotten"
    shutil.rmtree(aside, ignore_errors=True)
    with suppress(FileNotFoundError):
        directory.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def source_state(pipeline: Pipeline) -> dict[str, Any]:
    """What the source has written down; empty before a first run."""
    return dict(pipeline.state.get("sources", {}).get("deribit", {}))


def recover(pipeline: Pipeline) -> None:
    """After a run that was cut off anywhere: what it had extracted is loaded, and the state stands where the data does.

    A database without its working directory is asked for the state.
    """
    with unwrap_dlt_errors():
        pipeline.sync_destination()
        if pipeline.has_pending_data:
            pipeline.normalize()
            pipeline.load()
            # The run may have ended after its package was complete and before it wrote down its state.
            pipeline.sync_destination()


def repair_working_directory(directory: Path) -> None:
    """Ends each of dlt's steps that is several changes to its files, and may have been cut off between two of them."""
    normalize, load = directory / "normalize", directory / "load"
    if normalize.is_dir():  # half an extraction
        for path in normalize.iterdir():
            if path.is_dir() and path.name != NormalizeStorage.EXTRACTED_FOLDER:
                shutil.rmtree(path)
    if not load.is_dir():
        return
    loads = LoadStorage(True, [], LoadStorageConfiguration(load_volume_path=str(load)))
    for load_id in loads.new_packages.list_packages():  # half a normalization
        loads.new_packages.delete_package(load_id)
    for load_id in loads.list_normalized_packages():
        if loads.normalized_packages.is_package_completed(load_id):
            loads.storage.rename_tree(
                loads.get_normalized_package_path(load_id), loads.get_loaded_package_path(load_id)
            )
    for load_id in sorted(loads.list_loaded_packages())[:-LOADED_KEPT]:
        loads.delete_loaded_package(load_id)
    for load_id in loads.list_loaded_packages():
        with suppress(NotADirectoryError):  # they are removed already
            loads.loaded_packages.remove_completed_jobs(load_id)
    extracts = NormalizeStorage(True, NormalizeStorageConfiguration(normalize_volume_path=str(normalize)))
    done = {*loads.list_normalized_packages(), *loads.list_loaded_packages()}
    for load_id in done & set(extracts.extracted_packages.list_packages()):
        extracts.extracted_packages.delete_package(load_id)


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
            with unwrap_dlt_errors():
                under_way.result()

    def wait(self) -> None:
        """Returns when everything begun is loaded. Raises OutsideError or what our own parts raised."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            with unwrap_dlt_errors():
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
def unwrap_dlt_errors() -> Iterator[None]:
    """dlt's wrapping around our own errors is taken off; its own become one sentence."""
    try:
        yield
    except TapeError:
        raise
    except PipelineStepFailed as error:
        _raise_root_cause(error, error.step)
    except Exception as error:
        _raise_root_cause(error, "load")


def _raise_root_cause(error: Exception, step: str) -> NoReturn:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, TapeError):
            raise cause from error
        cause = cause.__cause__ or cause.__context__
    text = " ".join(str(error.__cause__ or error).split())
    raise OutsideError(f"The {step} step failed: {text}") from error
