"""Parquet file with the trades of one load package, which dlt imports as it is."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress

import pyarrow as pa
from pyarrow import parquet

from extract.deribit.schema import ARROW_SCHEMA

LOAD_ID = pa.field("_dlt_load_id", pa.string(), nullable=False)
FILE_SCHEMA = ARROW_SCHEMA.append(LOAD_ID)
UNIQUE_COLUMNS = ("trade_id", "timestamp")
"""Columns that a dictionary makes longer."""
ASCENDING_COLUMNS = ("timestamp",)
"""Columns whose differences are stored: half the bytes."""


class TradeFile:
    """A file in `directory`, of the load package `load_id`. `rows` counts its trades; `is_part`: dlt has to import it.

    Each kind of column has its own encoding, and there are no statistics, because loaders read whole files: writing
    takes a third less time than with the default encoding, and files are a sixth smaller.
    """

    def __init__(self, directory: str, load_id: str) -> None:
        self.load_id = load_id
        self.rows = 0
        self.is_part = False
        descriptor, self.path = tempfile.mkstemp(dir=directory, suffix=".parquet")
        os.close(descriptor)
        self._writer = self._open()

    def _open(self) -> parquet.ParquetWriter:
        return parquet.ParquetWriter(
            self.path,
            FILE_SCHEMA,
            compression="snappy",
            use_dictionary=[name for name in FILE_SCHEMA.names if name not in UNIQUE_COLUMNS],
            column_encoding=dict.fromkeys(ASCENDING_COLUMNS, "DELTA_BINARY_PACKED"),
            write_statistics=False,
        )

    def write(self, table: pa.Table) -> None:
        """Append trades in ARROW_SCHEMA as one row group."""
        load_ids = pa.repeat(pa.scalar(self.load_id), table.num_rows)
        self._writer.write_table(pa.Table.from_arrays([*table.columns, load_ids], schema=FILE_SCHEMA))
        self.rows += table.num_rows

    def clear(self) -> None:
        """Remove all trades."""
        self.close()
        self.rows = 0
        self._writer = self._open()

    def close(self) -> None:
        """Complete the file, for reading."""
        self._writer.close()

    def delete(self) -> None:
        """Delete the file, if it exists."""
        with suppress(FileNotFoundError):
            os.unlink(self.path)
