"""The parquet file that becomes the trades of a load package."""

from __future__ import annotations

from pathlib import Path

import dlt
import pyarrow as pa
from pyarrow import parquet

from extract.deribit.schema import ARROW_SCHEMA
from extract.source.trade_file import FILE_SCHEMA, TradeFile

ROWS = 50_000


def trades() -> pa.Table:
    """Trades as a busy future has them: ids do not repeat, and times ascend by small steps."""
    values = {
        "trade_id": [str(300_000_000 + n) for n in range(ROWS)],
        "trade_seq": list(range(1, ROWS + 1)),
        "timestamp": pa.array([n * 251 for n in range(ROWS)], pa.timestamp("ms", tz="UTC")),
        "instrument_name": ["BTC-PERPETUAL"] * ROWS,
        "direction": ["buy", "sell"] * (ROWS // 2),
        "price": [60_000.0 + n % 97 for n in range(ROWS)],
        "amount": [10.0 * (n % 13) for n in range(ROWS)],
        "currency": ["BTC"] * ROWS,
        "kind": ["future"] * ROWS,
    }
    columns = [values.get(field.name, pa.nulls(ROWS, field.type)) for field in ARROW_SCHEMA]
    return pa.table(columns, schema=ARROW_SCHEMA)


def test_file_is_smaller_than_that_of_dlt(tmp_path: Path) -> None:
    """It is smaller by at least a sixth, and has the same rows with the load id as the last column."""
    table = trades()
    file = TradeFile(str(tmp_path), "1.5")
    file.write(table)
    file.close()
    read = parquet.read_table(file.path)
    assert read.schema.equals(FILE_SCHEMA)
    assert read.select(table.column_names).equals(table)
    assert read.column("_dlt_load_id").unique().to_pylist() == ["1.5"]
    assert Path(file.path).stat().st_size < file_of_dlt(read, tmp_path).stat().st_size * 5 / 6


def test_cleared_file_holds_what_is_written_afterwards(tmp_path: Path) -> None:
    """A discarded window is swept again into the same file."""
    file = TradeFile(str(tmp_path), "1.5")
    file.write(trades())
    file.clear()
    file.write(trades().slice(0, 7))
    file.close()
    assert file.rows == parquet.read_table(file.path).num_rows == 7
    file.delete()
    assert not list(tmp_path.iterdir())


def file_of_dlt(table: pa.Table, directory: Path) -> Path:
    """The file that a pipeline loads of `table`."""
    destination = dlt.destinations.filesystem(str(directory / "out"))
    pipeline = dlt.pipeline("files", destination=destination, pipelines_dir=str(directory / "work"))
    pipeline.run(dlt.resource([table], name="trades"), loader_file_format="parquet")
    [file] = (directory / "out").rglob("trades/*.parquet")
    return file
