"""Columns of the public series besides trades, as Arrow schemas.

Columns have the names and units of the API. Columns of the request come first, `extra` is last: JSON text of the
fields that have no column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

Row = dict[str, Any]
"""Values by column; times in ms since 1970 UTC, days as `datetime.date`."""

TIME = pa.timestamp("ms", tz="UTC")
TEXT, NUMBER, DATE = pa.string(), pa.float64(), pa.date32()


@dataclass(frozen=True)
class Series:
    """One series: its columns, of which `required` are never null, and the columns that identify a row."""

    name: str
    columns: Mapping[str, pa.DataType]
    required: tuple[str, ...]
    key: tuple[str, ...]

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of the rows, one column per entry of `columns`."""
        return pa.schema(
            [
                pa.field(name, type_, nullable=name not in self.required)
                for name, type_ in self.columns.items()
            ]
        )

    def to_table(self, rows: list[Row]) -> pa.Table:
        """Arrow table of rows that have a value for each column."""
        arrays = [pa.array([row[name] for row in rows], type_) for name, type_ in self.columns.items()]
        return pa.Table.from_arrays(arrays, schema=self.schema)

    def key_of(self, row: Row) -> tuple[Any, ...]:
        """Identity of a row: of two rows with the same identity, the later answer counts."""
        return tuple(row[name] for name in self.key)


def _numbers(*names: str) -> dict[str, pa.DataType]:
    return dict.fromkeys(names, NUMBER)


FUNDING_RATES = Series(
    "funding_rates",
    {
        "instrument_name": TEXT,
        "timestamp": TIME,
        **_numbers("index_price", "prev_index_price", "interest_1h", "interest_8h"),
        "extra": TEXT,
    },
    required=("instrument_name", "timestamp", "interest_1h"),
    key=("instrument_name", "timestamp"),
)
"""Hourly. `interest_1h` was charged for the hour that ends at `timestamp`; `interest_8h` is a rolling rate, which must
not be summed. Both are fractions of the position."""

DELIVERY_PRICES = Series(
    "delivery_prices",
    {"index_name": TEXT, "date": DATE, "delivery_price": NUMBER, "extra": TEXT},
    required=("index_name", "date", "delivery_price"),
    key=("index_name", "date"),
)
"""Daily: the price at which instruments of an index expire at 08:00 UTC, the mean of the index over 30 minutes."""

SETTLEMENTS = Series(
    "settlements",
    {
        "currency": TEXT,
        "type": TEXT,
        "timestamp": TIME,
        "instrument_name": TEXT,
        **_numbers(
            "index_price",
            "mark_price",
            "position",
            "profit_loss",
            "session_profit_loss",
            "funding",
            "funded",
            "session_bankruptcy",
            "session_tax",
            "session_tax_rate",
            "socialized",
        ),
        "extra": TEXT,
    },
    required=("currency", "type", "timestamp", "instrument_name"),
    key=("type", "timestamp", "instrument_name"),
)
"""`type` is settlement, delivery or bankruptcy; a bankruptcy may have an empty `instrument_name`."""

VOLATILITY_INDEX = Series(
    "volatility_index",
    {
        "currency": TEXT,
        "resolution": TEXT,
        "timestamp": TIME,
        **_numbers("open", "high", "low", "close"),
        "extra": TEXT,
    },
    required=("currency", "resolution", "timestamp", "open", "high", "low", "close"),
    key=("resolution", "timestamp"),
)
"""Candles of DVOL in percent, named by their start; `resolution` as requested: seconds, or `1D`."""

BOOK_SUMMARIES = Series(
    "book_summaries",
    {
        "currency": TEXT,
        "timestamp": TIME,
        "instrument_name": TEXT,
        "base_currency": TEXT,
        "quote_currency": TEXT,
        **_numbers(
            "open_interest",
            "mark_price",
            "mark_iv",
            "bid_price",
            "ask_price",
            "mid_price",
            "last",
            "high",
            "low",
            "price_change",
            "volume",
            "volume_usd",
            "volume_notional",
            "underlying_price",
        ),
        "underlying_index": TEXT,
        **_numbers("interest_rate", "current_funding", "funding_8h", "estimated_delivery_price"),
        "creation_timestamp": TIME,
        "extra": TEXT,
    },
    required=("currency", "timestamp", "instrument_name"),
    key=("timestamp", "instrument_name"),
)
"""One row per instrument and snapshot; `timestamp` is the exchange's time of the answer, the same for all its rows."""

ALL_SERIES = (FUNDING_RATES, DELIVERY_PRICES, SETTLEMENTS, VOLATILITY_INDEX, BOOK_SUMMARIES)
