"""Opening the dlt pipeline, and loading its packages in a background thread.

`Pipeline.load` cannot run next to `Pipeline.extract`: it reads the pipeline's state when it begins, writes it back when
it ends, and would undo what the extraction committed meanwhile. `BackgroundLoader` therefore runs dlt's load step
alone, which only knows the packages that are ready. The pipeline itself loads the last package of a run, and then
records that it ran.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import dlt
from dlt import Pipeline

from extract.clickhouse.client import shared_database
from extract.clickhouse.destination import tape_clickhouse
from extract.clickhouse.settings import RAW_DATABASE, ClickHouseSettings
from extract.paths import dlt_dir
from extract.pipeline.dlt_internals import LoadStep, install_trade_file_writer, unwrap_dlt_errors
from extract.pipeline.recovery import delete_working_directory, repair_working_directory

PIPELINE_NAME = "deribit_trades"
ROW_GROUP_ROWS = 100_000
"""Trades per parquet row group. Smaller groups are slow to write and to read; larger ones only take memory."""


def open_pipeline(settings: ClickHouseSettings, *, discard_local_state: bool = False) -> Pipeline:
    """Open the project's dlt pipeline. Its working directory is in `.tape/`; its state is also stored in ClickHouse.

    The caller holds `run_lock`: what a killed run left in the working directory is repaired. The directory is deleted
    with `discard_local_state`, or where the database is gone.
    """
    pipelines = dlt_dir(settings.mode) / "pipelines"
    sql = "select count() from system.databases where name = {name:String}"
    if discard_local_state or not shared_database(settings).value(sql, {"name": RAW_DATABASE}):
        delete_working_directory(pipelines / PIPELINE_NAME)
    repair_working_directory(pipelines / PIPELINE_NAME)
    install_trade_file_writer()
    dlt.config["normalize.parquet_normalizer.add_dlt_load_id"] = True
    dlt.config["data_writer.buffer_max_items"] = ROW_GROUP_ROWS
    dlt.config["load.delete_completed_jobs"] = True  # ClickHouse has the rows
    return dlt.pipeline(
        PIPELINE_NAME,
        destination=tape_clickhouse(settings),
        dataset_name=RAW_DATABASE,
        pipelines_dir=str(pipelines),
    )


def source_state(pipeline: Pipeline) -> dict[str, Any]:
    """The stored state of the source; empty before the first run."""
    return dict(pipeline.state.get("sources", {}).get("deribit", {}))


class BackgroundLoader:
    """Loads the packages that are ready, one at a time, while the caller extracts the next one."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._step = LoadStep(pipeline)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._load: Future[None] | None = None

    def __enter__(self) -> BackgroundLoader:
        return self

    def __exit__(self, *_: object) -> None:
        """Finish the package that is being loaded: it is complete."""
        self._pool.shutdown()

    def start(self) -> None:
        """Start to load the ready packages. Call `wait` first."""
        self._load = self._pool.submit(self._step.run)

    def check(self) -> None:
        """Raise the error of the load if it has failed, without waiting. Safe in any thread."""
        load = self._load
        if load is not None and load.done():
            with unwrap_dlt_errors():
                load.result()

    def wait(self) -> None:
        """Wait until everything started is loaded. Raises OutsideError, or the project's own error."""
        load, self._load = self._load, None
        if load is not None:
            with unwrap_dlt_errors():
                load.result()
