"""Convert trades to Arrow tables; sort, compare and extend those tables."""

from __future__ import annotations

import contextlib
import hashlib
import struct
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from extract.deribit.jsonrpc import DECODE_ERRORS
from extract.deribit.schema import (
    ARROW_SCHEMA,
    ARROW_TYPES,
    FIELDS,
    PAGE_SCHEMA,
    RejectedTrade,
    Trade,
    TradeWithExtras,
)
from extract.deribit.streams import TradeKey

MAX_SORTED_CHARS = 64 * 2**10
"""Longer JSON is compared as the exchange spelled it, because decoding it may take a lot of memory."""
# Packing numbers takes a third of the time in which Arrow converts them one by one.
_PACKED = {pa.int64(): "q", pa.float64(): "d", ARROW_TYPES["timestamp"]: "q"}


def to_table(trades: Sequence[Trade]) -> pa.Table:
    """Arrow table in PAGE_SCHEMA, one row per trade, in the order given."""
    if not trades:
        return PAGE_SCHEMA.empty_table()
    # One pass over the trades is faster than one pass for each column: each trade is in the cache once.
    values = zip(*map(msgspec.structs.astuple, trades), strict=False)
    columns: dict[str, Sequence[Any]] = dict(zip(Trade.__struct_fields__, values, strict=False))
    columns["extra"] = _extras(trades)
    arrays = [_column(name, columns[name]) for name in PAGE_SCHEMA.names]
    return pa.Table.from_arrays(arrays, schema=PAGE_SCHEMA)


def _extras(trades: Sequence[Trade]) -> list[str | None]:
    if not any(kind is TradeWithExtras for kind in set(map(type, trades))):
        return [None] * len(trades)
    return [trade.extra if isinstance(trade, TradeWithExtras) else None for trade in trades]


def _column(name: str, values: Sequence[Any]) -> pa.Array:
    kind, count = PAGE_SCHEMA.field(name).type, len(values)
    if letter := _PACKED.get(kind):
        with contextlib.suppress(struct.error):  # a value is None
            packed = struct.pack(f"{count}{letter}", *values)
            return pa.Array.from_buffers(kind, count, [None, pa.py_buffer(packed)])
    if name == "legs":
        has_none = values.count(msgspec.UNSET) == count
        values = [None] * count if has_none else [legs_json(value) for value in values]
    # Counting None is fast only in a column full of it, so the first value decides whether to count.
    is_null = values[0] is None and values.count(None) == count
    return pa.nulls(count, kind) if is_null else pa.array(values, kind)


def legs_json(legs: msgspec.Raw | msgspec.UnsetType) -> str | None:
    """JSON text of a combo trade's legs; None for null as for no field."""
    text = None if legs is msgspec.UNSET else bytes(legs).decode()
    return None if text == "null" else text


def sort_by_instrument(table: pa.Table) -> tuple[pa.Table, bool]:
    """(`table` stably sorted by instrument name, whether trade_seq ascends strictly within each instrument).

    Strictly ascending trade_seq means that no trade is in the table twice. ClickHouse sorts by instrument as well;
    sorting ten thousand trades here takes a third of the time that it saves there.
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
    """Convert `table` from PAGE_SCHEMA to ARROW_SCHEMA."""
    stream = (pa.repeat(pa.scalar(value), table.num_rows) for value in (currency, kind))
    return pa.Table.from_arrays([*table.columns[:-1], *stream, table.columns[-1]], schema=ARROW_SCHEMA)


def reject_rows(
    table: pa.Table, is_rejected: npt.NDArray[np.bool_], reason: str
) -> tuple[pa.Table, list[RejectedTrade]]:
    """(`table` without the rejected rows, those rows as rejected trades without key and time)."""
    rejected = []
    rows = table.filter(pa.array(is_rejected))
    for row, at_ms in zip(rows.to_pylist(), times_ms(rows).tolist(), strict=True):
        fields = {name: value for name, value in row.items() if value is not None and name in FIELDS}
        fields["timestamp"] = at_ms
        if row["legs"] is not None:
            fields["legs"] = msgspec.Raw(row["legs"].encode())
        fields |= msgspec.json.decode(row["extra"] or "{}", type=dict[str, msgspec.Raw])
        rejected.append(RejectedTrade(reason, msgspec.json.encode(fields).decode()))
    return table.filter(pa.array(~is_rejected)), rejected


def times_ms(table: pa.Table) -> npt.NDArray[np.int64]:
    """Time of each trade in ms since 1970 UTC."""
    times: npt.NDArray[np.int64] = table.column("timestamp").cast(pa.int64()).to_numpy()
    return times


def trade_keys(table: pa.Table) -> list[TradeKey]:
    """(instrument_name, trade_seq) of each trade."""
    columns = (table.column(name).to_pylist() for name in ("instrument_name", "trade_seq"))
    return list(zip(*columns, strict=True))


def content_digests(table: pa.Table) -> list[int]:
    """63-bit hash of each trade's content, independent of its spelling in JSON: a restated trade has another one."""
    columns = [table.column(name) for name in PAGE_SCHEMA.names]
    columns[FIELDS.index("timestamp")] = table.column("timestamp").cast(pa.int64())
    rows = zip(*(column.to_pylist() for column in columns), strict=True)
    return [_digest([*row[:-2], _sorted_json(row[-2]), _sorted_json(row[-1])]) for row in rows]


def _digest(content: list[Any]) -> int:
    return int.from_bytes(hashlib.blake2b(msgspec.json.encode(content), digest_size=8).digest(), "big") >> 1


def _sorted_json(text: str | None) -> bytes | None:
    if text is None:
        return None
    if len(text) > MAX_SORTED_CHARS:
        return text.encode()
    try:
        return msgspec.json.encode(msgspec.json.decode(text), order="sorted")
    except DECODE_ERRORS:
        return text.encode()


def count_unknown_fields(table: pa.Table) -> Counter[str]:
    """Number of rows with each field in `extra`, by the field's name."""
    extras = table.column("extra").drop_null().to_pylist()
    records = msgspec.json.decode(f"[{','.join(extras)}]", type=list[dict[str, msgspec.Raw]])
    return Counter(name for record in records for name in record)
