"""Every use of a private dlt API: parquet writer, load step, package storage, error unwrapping.

An upgrade of dlt has to be checked here and in `clickhouse/destination/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from dlt import Pipeline
from dlt.common.configuration.container import Container
from dlt.common.configuration.resolve import inject_section
from dlt.common.configuration.specs.config_section_context import ConfigSectionContext
from dlt.common.data_writers.writers import WRITER_SPECS, ArrowToParquetWriter
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
from pyarrow import parquet

from extract.errors import OutsideError, TapeError

UNIQUE_COLUMNS = ("trade_id", "timestamp")
"""Columns that a dictionary makes longer."""
ASCENDING_COLUMNS = ("timestamp",)
"""Columns whose differences are stored: half the bytes."""


class TradeFileWriter(ArrowToParquetWriter):
    """Parquet for trades: an encoding for each kind of values, and no statistics, because ClickHouse reads whole files.

    Writing takes a third less time than with dlt's writer, and files are a sixth smaller.
    """

    def _create_writer(self, schema: pa.Schema) -> Any:
        return parquet.ParquetWriter(
            self._f,
            schema,
            version=self.parquet_format.version,
            compression=self.parquet_format.compression,
            use_dictionary=[name for name in schema.names if name not in UNIQUE_COLUMNS],
            column_encoding={
                name: "DELTA_BINARY_PACKED" for name in ASCENDING_COLUMNS if name in schema.names
            },
            write_statistics=False,
        )


def install_trade_file_writer() -> None:
    """Make dlt write Arrow tables with TradeFileWriter, for which it has no setting."""
    WRITER_SPECS[ArrowToParquetWriter.writer_spec()] = TradeFileWriter


class LoadStep:
    """dlt's load step without the pipeline, which reads its state when the step begins and writes it when it ends."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._client_config = pipeline.destination_client().config

    def run(self) -> None:
        """Load the packages that are normalized. Safe in a thread next to `pipeline.extract`."""
        storage = LoadStorageConfiguration(
            load_volume_path=str(Path(self._pipeline.working_dir) / "load"), delete_completed_jobs=True
        )
        destination = self._pipeline.destination
        # dlt's configuration context belongs to a thread.
        section = ConfigSectionContext(pipeline_name=self._pipeline.pipeline_name, sections=("load",))
        with inject_section(section), Container().injectable_context(destination.capabilities()):
            config = LoaderConfiguration(_load_storage_config=storage)
            step = Load(destination, config=config, initial_client_config=self._client_config)
            run_pool(step.config, step)


def open_load_storage(directory: Path) -> LoadStorage:
    """Normalized and loaded packages in a pipeline's working directory."""
    return LoadStorage(True, [], LoadStorageConfiguration(load_volume_path=str(directory / "load")))


def open_extract_storage(directory: Path) -> NormalizeStorage:
    """Extracted packages in a pipeline's working directory."""
    path = str(directory / "normalize")
    return NormalizeStorage(True, NormalizeStorageConfiguration(normalize_volume_path=path))


@contextmanager
def unwrap_dlt_errors() -> Iterator[None]:
    """Re-raise the project's errors that dlt wrapped, and raise dlt's errors as OutsideError of one sentence."""
    try:
        yield
    except TapeError:
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, TapeError):
                raise cause from error
            cause = cause.__cause__ or cause.__context__
        step = error.step if isinstance(error, PipelineStepFailed) else "load"
        text = " ".join(str(error.__cause__ or error).split())
        raise OutsideError(f"The {step} step failed: {text}") from error
