"""The project's dlt pipeline: where its working directory is, and whether it may be used again.

Everything in the working directory can be restored from ClickHouse. It is deleted unless the run that wrote it ended
cleanly and nothing has been loaded since, so that no run resumes from what a killed one left on the disk.
"""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import dlt
from dlt import Pipeline
from dlt.common.configuration import inject_section, resolve_configuration
from dlt.common.configuration.exceptions import ConfigValueCannotBeCoercedException
from dlt.common.configuration.specs.config_section_context import ConfigSectionContext
from dlt.common.exceptions import DltException
from dlt.common.runners.configuration import PoolRunnerConfiguration

from extract.clickhouse.destination import tape_clickhouse
from extract.clickhouse.settings import RAW_DATABASE, ClickHouseSettings
from extract.errors import OutsideError, UsageError
from extract.paths import dlt_dir
from extract.pipeline.errors import unwrap_dlt_errors, wrong_setting

PIPELINE_NAME = "deribit_trades"
LOADED_PACKAGES_RETAINED = 100
"""Loaded packages whose metadata `dlt pipeline info` can show. A run a minute would leave half a million a year."""
MAX_WORKERS = 1_000
"""Threads or processes of a step of dlt, which starts any number of them."""
FIXED_SETTINGS: Mapping[str, Any] = {
    "dev_mode": False,
    "full_refresh": None,
    "refresh": None,
    "restore_from_destination": True,
    "dataset_name_layout": None,
    "staging_type": None,
    "staging_name": None,
}
"""Settings of dlt by which a run would drop loaded trades, forget its state, or load into another place."""


def open_pipeline(settings: ClickHouseSettings, newest_load_id: str | None) -> Pipeline:
    """Open the project's dlt pipeline with the state that belongs to the newest finished load package in ClickHouse.

    The caller holds `run_lock`. The working directory counts as dirty until `mark_clean`.
    """
    pipelines = dlt_dir(settings.mode) / "pipelines"
    was_clean = is_clean(settings, newest_load_id)
    _marker(pipelines).unlink(missing_ok=True)
    if was_clean and (pipelines / PIPELINE_NAME).is_dir():
        pipeline = _pipeline(settings, pipelines)
        if len(pipeline.list_completed_load_packages()) <= LOADED_PACKAGES_RETAINED:
            return pipeline
    _delete(pipelines / PIPELINE_NAME)
    pipeline = _pipeline(settings, pipelines)
    if newest_load_id is not None:
        with unwrap_dlt_errors():
            pipeline.sync_destination()
    return pipeline


def is_clean(settings: ClickHouseSettings, newest_load_id: str | None) -> bool:
    """Whether the last run ended cleanly, and this is the newest finished load package since."""
    marker = _marker(dlt_dir(settings.mode) / "pipelines")
    return marker.is_file() and marker.read_text() == newest_load_id


def mark_clean(settings: ClickHouseSettings, newest_load_id: str | None) -> None:
    """Record that the working directory has the state of this load package, and nothing to load."""
    if newest_load_id is not None:
        _marker(dlt_dir(settings.mode) / "pipelines").write_text(newest_load_id)


def loaded_state(settings: ClickHouseSettings) -> dict[str, Any]:
    """The state of the source as of the newest finished load package; empty before the first run."""
    with tempfile.TemporaryDirectory() as scratch, unwrap_dlt_errors():
        pipeline = _pipeline(settings, Path(scratch))
        pipeline.sync_destination()
        return source_state(pipeline)


def store_state(settings: ClickHouseSettings, state: dict[str, Any]) -> None:
    """Load a package that replaces the state of the source, and has no rows. The caller holds the lease."""

    @dlt.resource(name="state")
    def set_state() -> Iterator[Any]:
        stored = dlt.current.source_state()
        stored.clear()
        stored.update(state)
        yield from ()

    with tempfile.TemporaryDirectory() as scratch, unwrap_dlt_errors():
        _pipeline(settings, Path(scratch)).run(dlt.source(lambda: set_state, name="deribit")())


def source_state(pipeline: Pipeline) -> dict[str, Any]:
    """The state of the source; empty before the first run."""
    return dict(pipeline.state.get("sources", {}).get("deribit", {}))


def require_whole(pipeline: Pipeline, load_id: str) -> None:
    """Raise OutsideError if a job of a load package has failed.

    With dlt's setting `raise_on_failed_jobs = false`, the package would be listed as finished without the job's rows.
    """
    for job in pipeline.get_load_package_info(load_id).jobs["failed_jobs"]:
        *_, reason = (job.failed_message or "").strip().splitlines() or ["no reason is known"]
        raise OutsideError(f"Rows of {job.job_file_info.table_name} could not be loaded: {reason}")


def _pipeline(settings: ClickHouseSettings, pipelines: Path) -> Pipeline:
    """Raises UsageError for a setting of dlt that is not the one in FIXED_SETTINGS, or that dlt cannot use."""
    destination = tape_clickhouse(settings)
    try:
        pipeline = dlt.pipeline(
            PIPELINE_NAME,
            destination=destination,
            dataset_name=RAW_DATABASE,
            pipelines_dir=str(pipelines),
        )
    except ConfigValueCannotBeCoercedException as error:
        raise wrong_setting(error) from error
    except (DltException, ValueError) as error:
        text = " ".join(str(error).split())
        raise UsageError(
            f"A setting of dlt for pipelines, such as progress, cannot be used: {text}"
        ) from error
    for name, value in FIXED_SETTINGS.items():
        if getattr(pipeline.config, name) != value:
            raise UsageError(
                f"dlt's setting {name} is set, in the environment or in .dlt/: remove it, because with it trades would be "
                f"dropped, loaded again, or not loaded into {RAW_DATABASE}."
            )
    _require_workers()
    # dlt's handlers would replace those of `stop_on_sigterm` while a package is loaded, and lose the signal.
    pipeline.config.runtime.intercept_signals = False
    destination.before_complete = partial(require_whole, pipeline)
    return pipeline


def _require_workers() -> None:
    """Raise UsageError for workers with which a step of dlt would fail, or that no machine can start."""
    for step in ("normalize", "load"):
        with (
            unwrap_dlt_errors(),
            inject_section(ConfigSectionContext(pipeline_name=PIPELINE_NAME, sections=(step,))),
        ):
            pool = resolve_configuration(PoolRunnerConfiguration(pool_type="none"))
        if pool.workers is not None and not 1 <= pool.workers <= MAX_WORKERS:
            raise UsageError(
                f"dlt's setting {step}.workers is {pool.workers}: use 1 to {MAX_WORKERS:,}, or remove it."
            )
        methods = multiprocessing.get_all_start_methods()
        if pool.start_method is not None and pool.start_method not in methods:
            raise UsageError(
                f"dlt's setting {step}.start_method is not one of {', '.join(methods)}: remove it."
            )
        if not pool.run_sleep >= 0:
            raise UsageError(
                f"dlt's setting {step}.run_sleep is {pool.run_sleep}: use seconds, or remove it."
            )


def _marker(pipelines: Path) -> Path:
    return pipelines / f"{PIPELINE_NAME}.clean"


def _delete(directory: Path) -> None:
    """Rename, then delete: dlt would mistake a half-deleted directory for a complete one."""
    discarded = directory.with_name("discarded")
    shutil.rmtree(discarded, ignore_errors=True)
    with suppress(FileNotFoundError):
        directory.rename(discarded)
    shutil.rmtree(discarded, ignore_errors=True)
