"""Schema of trades: the record of the API, its Arrow columns, and a decoded page.

Columns have the names and types of the API; `legs` is JSON text, `extra` JSON text of the fields without a column.
A record that does not fit the types becomes a `RejectedTrade` with the reason and its raw text, so that it is not lost.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
import pyarrow as pa

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
MAX_SEQ = 10**10
"""Limit of trade_seq: the busiest instrument is below 10^9 after years, and SQL lists the blocks of a range of numbers."""
Seq = Annotated[int, msgspec.Meta(ge=1, le=MAX_SEQ)]
MAX_ABS_VALUE = 1e12
"""Limit of prices and amounts: the models' decimals hold their product and sums of it. No market comes near it."""
Price = Annotated[float, msgspec.Meta(ge=-MAX_ABS_VALUE, le=MAX_ABS_VALUE)]
Amount = Annotated[float, msgspec.Meta(ge=0, le=MAX_ABS_VALUE)]
MAX_TIME_MS = 4_102_444_799_999
"""The end of 2099: buckets have 32-bit times."""
TimeMs = Annotated[int, msgspec.Meta(ge=0, le=MAX_TIME_MS)]


class Trade(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, gc=False):
    """One public trade as the exchange sends it. `timestamp` in ms since 1970 UTC, `iv` in percent.

    Fields are in the order of recorded answers, which decodes fastest.
    """

    trade_seq: Seq
    trade_id: str
    timestamp: TimeMs
    tick_direction: Int64 | None = None
    price: Price
    mark_price: float | None = None
    iv: float | None = None
    instrument_name: str
    index_price: float | None = None
    direction: str
    amount: Amount
    contracts: float | None = None
    liquidation: str | None = None
    combo_id: str | None = None
    combo_trade_id: str | None = None
    block_trade_id: str | None = None
    block_trade_leg_count: Int64 | None = None
    block_rfq_id: Int64 | None = None
    legs: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class TradeWithExtras(Trade, kw_only=True, forbid_unknown_fields=False, gc=False):
    """A trade with fields that have no column; `extra` is their JSON text once the page is decoded."""

    extra: Any = None


@dataclass(frozen=True)
class RejectedTrade:
    """A record that does not fit the types, with its `key` and `timestamp` (ms) if those do."""

    reason: str
    raw: str
    key: tuple[str, int] | None = None
    timestamp: int | None = None


@dataclass
class TradePage:
    """A decoded page of trades.

    `table` is in PAGE_SCHEMA, sorted by instrument, and holds each trade once, in its latest version. `rows` counts the
    records of the answer, `count` is the requested maximum, `at_ms` the exchange's time of the answer.
    """

    table: pa.Table
    rows: int
    has_more: bool
    rejected: list[RejectedTrade] = field(default_factory=list)
    count: int = 0
    at_ms: int | None = None


REQUIRED = ("trade_seq", "trade_id", "timestamp", "instrument_name", "price", "amount", "direction")
FIELDS = (
    *REQUIRED,
    "tick_direction",
    "index_price",
    "mark_price",
    "iv",
    "contracts",
    "liquidation",
    "block_trade_id",
    "block_trade_leg_count",
    "block_rfq_id",
    "combo_id",
    "combo_trade_id",
    "legs",
)
"""Names of the columns that the exchange sends."""
ARROW_TYPES: dict[str, pa.DataType] = {
    "trade_seq": pa.int64(),
    "timestamp": pa.timestamp("ms", tz="UTC"),
    "price": pa.float64(),
    "amount": pa.float64(),
    "tick_direction": pa.int64(),
    "index_price": pa.float64(),
    "mark_price": pa.float64(),
    "iv": pa.float64(),
    "contracts": pa.float64(),
    "block_trade_leg_count": pa.int64(),
    "block_rfq_id": pa.int64(),
}
PAGE_SCHEMA = pa.schema(
    [pa.field(name, ARROW_TYPES.get(name, pa.string()), nullable=name not in REQUIRED) for name in FIELDS]
    + [pa.field("extra", pa.string())]
)
"""One row per trade as the exchange sent it; times in ms UTC, prices and amounts in the API's units."""
ARROW_SCHEMA = pa.schema(
    [
        *(PAGE_SCHEMA.field(name) for name in FIELDS),
        pa.field("currency", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        PAGE_SCHEMA.field("extra"),
    ]
)
"""PAGE_SCHEMA with the currency and kind of the requested stream."""
