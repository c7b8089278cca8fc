"""The parquet files that dlt writes of trades."""

from __future__ import annotations

from pathlib import Path

import dlt
import pyarrow as pa
from dlt.common.data_writers.writers import WRITER_SPECS
from pyarrow import parquet

from extract.pipeline.dlt_internals import install_trade_file_writer


def test_trade_files_are_smaller_than_those_of_dlt(tmp_path: Path) -> None:
    """At least a sixth, with the same rows: ids do not repeat, and times ascend by small steps."""
    rows = 50_000
    table = pa.table(
        {
            "trade_id": [str(300_000_000 + n) for n in range(rows)],
            "direction": ["buy", "sell"] * (rows // 2),
            "timestamp": pa.array([n * 251 for n in range(rows)], pa.timestamp("ms", tz="UTC")),
        }
    )
    writers = dict(WRITER_SPECS)
    sizes = []
    try:
        for name, install in (("dlt", lambda: None), ("project", install_trade_file_writer)):
            WRITER_SPECS.clear()
            WRITER_SPECS.update(writers)
            install()
            file = write(table, tmp_path / name)
            assert parquet.read_table(file).select(table.column_names).equals(table)
            sizes.append(file.stat().st_size)
    finally:
        WRITER_SPECS.clear()
        WRITER_SPECS.update(writers)
    default, tuned = sizes
    assert tuned < default * 5 / 6


def write(table: pa.Table, directory: Path) -> Path:
    """The file that a pipeline loads of `table`."""
    destination = dlt.destinations.filesystem(str(directory / "out"))
    pipeline = dlt.pipeline("files", destination=destination, pipelines_dir=str(directory / "work"))
    pipeline.run(dlt.resource([table], name="trades"), loader_file_format="parquet")
    [file] = (directory / "out").rglob("trades/*.parquet")
    return file
