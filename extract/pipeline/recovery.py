"""Recovery after an interrupted run: its working directory is repaired, and its pending packages are loaded."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from dlt import Pipeline
from dlt.common.storages import NormalizeStorage

from extract.pipeline.dlt_internals import open_extract_storage, open_load_storage, unwrap_dlt_errors

LOADED_PACKAGES_RETAINED = 10
"""Loaded packages whose metadata `dlt pipeline info` can show. A run a minute would leave half a million a year."""


def recover(pipeline: Pipeline) -> None:
    """Load what an interrupted run had extracted, and bring the state up to date with the data.

    A pipeline without a working directory restores its state from the database.
    """
    with unwrap_dlt_errors():
        pipeline.sync_destination()
        if pipeline.has_pending_data:
            pipeline.normalize()
            pipeline.load()
            # The run may have been killed after its package was complete and before it stored its state.
            pipeline.sync_destination()


def delete_working_directory(directory: Path) -> None:
    """Rename, then delete: dlt would mistake a half-deleted directory for a complete one."""
    discarded = directory.parent.parent / "forgotten"
    shutil.rmtree(discarded, ignore_errors=True)
    with suppress(FileNotFoundError):
        directory.rename(discarded)
    shutil.rmtree(discarded, ignore_errors=True)


def repair_working_directory(directory: Path) -> None:
    """Complete or undo each of dlt's steps that changes several files and was interrupted between two of them."""
    normalize = directory / "normalize"
    if normalize.is_dir():  # partly extracted packages
        for path in normalize.iterdir():
            if path.is_dir() and path.name != NormalizeStorage.EXTRACTED_FOLDER:
                shutil.rmtree(path)
    if not (directory / "load").is_dir():
        return
    loads = open_load_storage(directory)
    for load_id in loads.new_packages.list_packages():  # partly normalized packages
        loads.new_packages.delete_package(load_id)
    for load_id in loads.list_normalized_packages():
        if loads.normalized_packages.is_package_completed(load_id):
            loads.storage.rename_tree(
                loads.get_normalized_package_path(load_id), loads.get_loaded_package_path(load_id)
            )
    for load_id in sorted(loads.list_loaded_packages())[:-LOADED_PACKAGES_RETAINED]:
        loads.delete_loaded_package(load_id)
    for load_id in loads.list_loaded_packages():
        with suppress(NotADirectoryError):  # already removed
            loads.loaded_packages.remove_completed_jobs(load_id)
    extracts = open_extract_storage(directory)
    normalized = {*loads.list_normalized_packages(), *loads.list_loaded_packages()}
    for load_id in normalized & set(extracts.extracted_packages.list_packages()):
        extracts.extracted_packages.delete_package(load_id)
