"""How trades are written to files, by dlt itself."""

from __future__ import annotations

from pathlib import Path

import dlt
import pyarrow as pa
from pyarrow import parquet

from extract.pipeline.dlt_internals import use_trade_files


def test_dlt_writes_no_dictionary_where_nothing_repeats(tmp_path: Path) -> None:
    use_trade_files()
    times = pa.array(range(0, 250_000, 250), pa.timestamp("ms", tz="UTC"))
    ids = [str(n) for n in range(1000)]
    table = pa.table({"trade_id": ids, "direction": ["buy", "sell"] * 500, "timestamp": times})
    pipeline = dlt.pipeline(
        "files",
        destination=dlt.destinations.filesystem(str(tmp_path / "out")),
        pipelines_dir=str(tmp_path / "work"),
    )
    pipeline.run(dlt.resource([table], name="trades"), loader_file_format="parquet")
    [file] = (tmp_path / "out").rglob("trades/*.parquet")
    columns = [parquet.ParquetFile(file).metadata.row_group(0).column(n) for n in range(3)]
    assert [(c.path_in_schema, c.has_dictionary_page, c.is_stats_set) for c in columns] == [
        ("trade_id", False, False),
        ("direction", True, False),
        ("timestamp", False, False),
    ]
    assert "DELTA_BINARY_PACKED" in columns[2].encodings
    assert parquet.read_table(file).select(table.column_names).equals(table)
