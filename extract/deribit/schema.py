"""Schema of a trade record and its conversion to Arrow.

Columns have the names and types of the API; `legs` is JSON text. `extra` is JSON text of the fields without a column,
and `with_stream_columns` adds `currency` and `kind` as requested. A record that does not fit the types is returned
as a `RejectedTrade` with the reason and its raw text, so that it is not lost.
"""

from __future__ import annotations

import contextlib
import hashlib
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
import numpy as np
import pyarrow as pa

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Seq = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
MAX_ABS_VALUE = 1e12
"""Neither a price nor an amount is larger: the models' decimals hold the product, and sums of it. No market comes near."""
Price = Annotated[float, msgspec.Meta(ge=-MAX_ABS_VALUE, le=MAX_ABS_VALUE)]
Amount = Annotated[float, msgspec.Meta(ge=0, le=MAX_ABS_VALUE)]
TimeMs = Annotated[int, msgspec.Meta(ge=0, le=9_999_999_999_999)]


class Trade(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, gc=False):
    """One public trade as the exchange sends it. `timestamp` in ms since 1970 UTC, `iv` in percent.

    In the order of recorded answers: a field that comes where the decoder expects it is not looked for.
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
    """A trade whose record has something that `Trade` does not know, kept in `extra`."""

    extra: str | None = None


@dataclass(frozen=True)
class RejectedTrade:
    """A record that could not be typed; `key` and `timestamp` where at least they could."""

    reason: str
    raw: str
    key: tuple[str, int] | None = None
    timestamp: int | None = None


@dataclass
class TradePage:
    """A decoded page: what could be typed, what could not, and what the exchange says of more.

    `table` is in PAGE_SCHEMA and holds each trade once, in its latest version, by instrument. `rows` counts the records
    of the answer, `count` is what was asked for at most, `at_ms` the exchange's own time of the answer.
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
"""The columns of what the exchange sends."""
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
"""One row per trade as the exchange stated it; times in ms UTC, prices and amounts as the API's units."""
ARROW_SCHEMA = pa.schema(
    [
        *(PAGE_SCHEMA.field(name) for name in FIELDS),
        pa.field("currency", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        PAGE_SCHEMA.field("extra"),
    ]
)
"""PAGE_SCHEMA with the stream that the trade was asked of."""

# Numbers are packed in a third of the time that Arrow takes to look at each.
_PACKED = {pa.int64(): "q", pa.float64(): "d", ARROW_TYPES["timestamp"]: "q"}
_learned: dict[type[Trade], tuple[tuple[str, str], ...]] = {}


def register_unknown_fields(kind: type[Trade], fields: dict[str, str]) -> None:
    """Has trades of `kind` bear the exchange's field `fields[attribute]` as raw JSON in `attribute`."""
    _learned[kind] = tuple(
        (attribute, msgspec.json.encode(name).decode()) for attribute, name in fields.items()
    )


def unknown_fields_json(trade: Trade) -> str | None:
    """JSON text of what no column knows of the trade."""
    if type(trade) is Trade:
        return None
    if type(trade) is TradeWithExtras:
        return trade.extra
    parts = [
        f"{name}:{bytes(value).decode()}"
        for attribute, name in _learned[type(trade)]
        if (value := getattr(trade, attribute)) is not msgspec.UNSET
    ]
    return f"{{{','.join(parts)}}}" if parts else None


def legs_of(legs: msgspec.Raw | msgspec.UnsetType) -> str | None:
    """JSON text of a combo trade's legs; null says as little as no field."""
    text = None if legs is msgspec.UNSET else bytes(legs).decode()
    return None if text == "null" else text


def content_digests(table: pa.Table) -> list[int]:
    """63 bits over each trade's whole content, however it was spelled: a re-stated trade has others."""
    columns = [table.column(name) for name in PAGE_SCHEMA.names]
    columns[FIELDS.index("timestamp")] = table.column("timestamp").cast(pa.int64())
    rows = zip(*(column.to_pylist() for column in columns), strict=True)
    return [_digest([*row[:-2], _in_order(row[-2]), _in_order(row[-1])]) for row in rows]


def _digest(content: list[Any]) -> int:
    return int.from_bytes(hashlib.blake2b(msgspec.json.encode(content), digest_size=8).digest(), "big") >> 1


def _in_order(text: str | None) -> bytes | None:
    return None if text is None else msgspec.json.encode(msgspec.json.decode(text), order="sorted")


def to_table(trades: Sequence[Trade]) -> pa.Table:
    """Arrow table in PAGE_SCHEMA, one row per trade, in the order given."""
    if not trades:
        return PAGE_SCHEMA.empty_table()
    # Each trade is in the caches once: looking for a column's values in all of them takes longer.
    values = zip(*map(msgspec.structs.astuple, trades), strict=False)
    columns = dict(zip(Trade.__struct_fields__, values, strict=False))
    columns["extra"] = _extras(trades)
    arrays = [_column(name, columns[name]) for name in PAGE_SCHEMA.names]
    return pa.Table.from_arrays(arrays, schema=PAGE_SCHEMA)


def by_instrument(table: pa.Table) -> tuple[pa.Table, bool]:
    """`table` in the order of its instruments' names, one instrument's trades as they came: what ClickHouse sorts by.

    And whether each instrument's seqs ascend there, as they do as a rule: then no trade is in it twice. Ten thousand
    trades at a time are sorted here in a third of the time that it saves where a million are.
    """
    if table.num_rows < 2:
        return table, True
    names = table.column("instrument_name").combine_chunks().dictionary_encode()
    rank = np.empty(len(names.dictionary), dtype=np.min_scalar_type(len(names.dictionary)))
    rank[np.argsort(names.dictionary.to_numpy(zero_copy_only=False))] = np.arange(len(rank))
    ranks = rank[names.indices.to_numpy()]
    order = np.argsort(ranks, kind="stable")
    rows = pa.array(order)
    columns = (column.combine_chunks() for column in table.columns)
    arrays = [column if column.null_count == len(column) else column.take(rows) for column in columns]
    ordered = pa.Table.from_arrays(arrays, schema=table.schema)
    steps = np.diff(ordered.column("trade_seq").to_numpy())
    return ordered, bool(np.all((steps > 0) | (np.diff(ranks[order]) > 0)))


def with_stream_columns(table: pa.Table, currency: str, kind: str) -> pa.Table:
    """`table` of PAGE_SCHEMA in ARROW_SCHEMA."""
    stream = (pa.repeat(pa.scalar(word), table.num_rows) for word in (currency, kind))
    return pa.Table.from_arrays([*table.columns[:-1], *stream, table.columns[-1]], schema=ARROW_SCHEMA)


def times_ms(table: pa.Table) -> np.ndarray:
    """Each trade's time in ms since 1970 UTC."""
    return table.column("timestamp").cast(pa.int64()).to_numpy()


def _column(name: str, values: Sequence[Any]) -> pa.Array:
    kind, count = PAGE_SCHEMA.field(name).type, len(values)
    if letter := _PACKED.get(kind):
        with contextlib.suppress(struct.error):  # there are nulls
            packed = struct.pack(f"{count}{letter}", *values)
            return pa.Array.from_buffers(kind, count, [None, pa.py_buffer(packed)])
    if name == "legs":
        has_none = values.count(msgspec.UNSET) == count
        values = [None] * count if has_none else [legs_of(value) for value in values]
    # Only what is the very same counts at once: the rest is compared, so nobody counts where there is a value.
    is_null = values[0] is None and values.count(None) == count
    return pa.nulls(count, kind) if is_null else pa.array(values, kind)


def _extras(trades: Sequence[Trade]) -> list[str | None]:
    """`unknown_fields_json` each trade."""
    kinds = set(map(type, trades))
    if not any(kind is TradeWithExtras or has_unknown_fields(kind, trades) for kind in kinds):
        return [None] * len(trades)
    return [unknown_fields_json(trade) for trade in trades]


def has_unknown_fields(kind: type[Trade], trades: Sequence[Trade]) -> bool:
    """Whether any of the trades bears a field that `kind` learned."""
    return any(has_field(attribute, trades) for attribute, _ in _learned.get(kind, ()))


def count_unknown_fields(table: pa.Table) -> Counter[str]:
    """Rows that bear each field kept in `extra`, by the field's name."""
    extras = table.column("extra").drop_null().to_pylist()
    records = msgspec.json.decode(f"[{','.join(extras)}]", type=list[dict[str, msgspec.Raw]])
    return Counter(name for record in records for name in record)


def has_field(attribute: str, trades: Sequence[Trade]) -> bool:
    """Whether any of the trades bears a learned field."""
    values = [getattr(trade, attribute, msgspec.UNSET) for trade in trades]
    return values.count(msgspec.UNSET) < len(values)
