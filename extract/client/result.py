"""A lazy answer: nothing is read until its rows or its coverage are needed."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from extract.client.coverage import Coverage
from extract.client.question import normalise
from extract.errors import UsageError

if TYPE_CHECKING:
    import pandas
    import polars


class Answer(NamedTuple):
    """Rows, and the coverage if it arrives with them."""

    table: pa.Table
    coverage: Coverage | None


class Result:
    """Rows of one question. Times are aware and in UTC; columns and units are those of the tables (docs/client.md).

    The first call of `arrow`, `pl` or `df` reads all rows into memory; later ones use the same rows. `prove` reads the
    coverage where it does not arrive with the rows.
    """

    def __init__(
        self,
        read: Callable[[], Answer],
        prove: Callable[[], Coverage] | None,
        sql: str,
        *,
        decimals: bool,
        index: str | None = None,
        transform: Callable[[pa.Table], pa.Table] | None = None,
    ) -> None:
        self._read = read
        self._prove = prove
        self._sql = sql
        self._decimals = decimals
        self._index = index
        self._transform = transform or (lambda table: table)

    @cached_property
    def _answer(self) -> Answer:
        return self._read()

    def arrow(self, *, decimals: bool | None = None) -> pa.Table:
        """The rows as an Arrow table. `decimals`: whether exact columns are decimal128(38, 12) or double."""
        exact = self._decimals if decimals is None else decimals
        return self._transform(normalise(self._answer.table, decimals=exact))

    def pl(self, *, decimals: bool | None = None) -> polars.DataFrame:
        """The rows as a polars DataFrame. Raises UsageError where polars is not installed."""
        frame: polars.DataFrame = _import("polars").from_arrow(self.arrow(decimals=decimals))
        return frame

    def df(self, *, decimals: bool | None = None) -> pandas.DataFrame:
        """The rows as a pandas DataFrame; candles and funding of one instrument, and panels, are indexed by time.

        Raises UsageError where pandas is not installed.
        """
        _import("pandas")
        frame: pandas.DataFrame = self.arrow(decimals=decimals).to_pandas(date_as_object=False)
        return frame.set_index(self._index) if self._index else frame

    def sql(self) -> str:
        """The statement that ClickHouse answers with the same rows, for any other client of it."""
        return self._sql

    @cached_property
    def coverage(self) -> Coverage:
        """Whether the rows are complete, and what is missing; see `Coverage`."""
        if self._prove:
            return self._prove()
        assert self._answer.coverage is not None, "the answer carries its coverage"
        return self._answer.coverage

    def __len__(self) -> int:
        return int(self.arrow().num_rows)

    def __repr__(self) -> str:
        return f"<deribit_tape.Result of: {' '.join(self._sql.split())[:100]}>"


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UsageError(f"{name} is not installed; run: pip install 'deribit-tape[{name}]'") from error
