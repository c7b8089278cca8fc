"""How trades are written to files, by dlt itself."""

from __future__ import annotations

from pathlib import Path

import dlt
import pyarrow as pa
from pyarrow import parquet

from extract.parquet_files import use_trade_files


def test_dlt_writes_no_dictionary_where_nothing_repeats(tmp_path: Path) -> None:
    use_trade_files()
    table = pa.table({"trade_id": [str(n) for n in range(1000)], "direction": ["buy", "sell"] * 500})
    pipeline = dlt.pipeline(
        "files",
        destination=dlt.destinations.filesystem(str(tmp_path / "out")),
        pipelines_dir=str(tmp_path / "work"),
    )
    pipeline.run(dlt.resource([table], name="trades"), loader_file_format="parquet")
    [file] = (tmp_path / "out").rglob("trades/*.parquet")
    columns = [parquet.ParquetFile(file).metadata.row_group(0).column(n) for n in range(2)]
    assert [(c.path_in_schema, c.has_dictionary_page, c.is_stats_set) for c in columns] == [
        ("trade_id", False, False),
        ("direction", True, False),
    ]
    assert parquet.read_table(file).select(["trade_id", "direction"]).equals(table)
