"""The parquet files that dlt writes of trades."""

from __future__ import annotations

from pathlib import Path

import dlt
import pyarrow as pa
from dlt.common.data_writers.writers import WRITER_SPECS, ArrowToParquetWriter
from pyarrow import parquet

from extract.pipeline.dlt_internals import install_trade_file_writer


def test_trade_files_are_smaller_than_those_of_dlt(tmp_path: Path) -> None:
    """They are smaller by at least a sixth, with the same rows: ids do not repeat, and times ascend by small steps."""
    rows = 50_000
    table = pa.table(
        {
            "trade_id": [str(300_000_000 + n) for n in range(rows)],
            "direction": ["buy", "sell"] * (rows // 2),
            "timestamp": pa.array([n * 251 for n in range(rows)], pa.timestamp("ms", tz="UTC")),
        }
    )
    sizes = []
    for name, install in (("dlt", restore_writer_of_dlt), ("project", install_trade_file_writer)):
        install()
        file = write(table, tmp_path / name)
        assert parquet.read_table(file).select(table.column_names).equals(table)
        sizes.append(file.stat().st_size)
    default, tuned = sizes
    assert tuned < default * 5 / 6


def restore_writer_of_dlt() -> None:
    """Earlier tests of this process may have installed the project's writer."""
    WRITER_SPECS[ArrowToParquetWriter.writer_spec()] = ArrowToParquetWriter


def write(table: pa.Table, directory: Path) -> Path:
    """The file that a pipeline loads of `table`."""
    destination = dlt.destinations.filesystem(str(directory / "out"))
    pipeline = dlt.pipeline("files", destination=destination, pipelines_dir=str(directory / "work"))
    pipeline.run(dlt.resource([table], name="trades"), loader_file_format="parquet")
    [file] = (directory / "out").rglob("trades/*.parquet")
    return file
