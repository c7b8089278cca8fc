"""The trade record: one explicit schema, from the exchange's JSON to an Arrow table.

Columns bear the API's names and types; `legs` is JSON text. Added here are `currency`, `kind` (as the exchange
was asked) and `extra`: JSON text of the fields that no column knows. A record that cannot be typed is not lost:
it comes back as `Rejected` with the reason and its raw text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import msgspec
import pyarrow as pa

from extract.deribit.envelope import Envelope, NoResultError


class Trade(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One public trade as the exchange sends it. `timestamp` in ms since 1970 UTC, `iv` in percent."""

    trade_seq: int
    trade_id: str
    timestamp: int
    instrument_name: str
    price: float
    amount: float
    direction: str
    tick_direction: int | None = None
    index_price: float | None = None
    mark_price: float | None = None
    iv: float | None = None
    contracts: float | None = None
    liquidation: str | None = None
    block_trade_id: str | None = None
    block_trade_leg_count: int | None = None
    block_rfq_id: int | None = None
    combo_id: str | None = None
    combo_trade_id: str | None = None
    legs: msgspec.Raw | None = None


class LooseTrade(Trade, kw_only=True, forbid_unknown_fields=False, gc=False):
    """A trade whose record has something that `Trade` does not know, kept in `extra`."""

    extra: str | None = None


class Page(msgspec.Struct):
    """`result` of the get_last_trades_by_* endpoints."""

    trades: list[Trade]
    has_more: bool = False


class _RawPage(msgspec.Struct):
    trades: list[msgspec.Raw]
    has_more: bool = False


@dataclass(frozen=True)
class Rejected:
    """A record that could not be typed."""

    reason: str
    raw: str


@dataclass
class TradePage:
    """A decoded page: what could be typed, what could not, and what the exchange says of more."""

    trades: Sequence[Trade]
    has_more: bool
    rejected: list[Rejected] = field(default_factory=list)
    unknown_fields: frozenset[str] = frozenset()


FIELDS = tuple(Trade.__struct_fields__)
_REQUIRED = FIELDS[: FIELDS.index("tick_direction")]
_ARROW_TYPES: dict[str, pa.DataType] = {
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
ARROW_SCHEMA = pa.schema(
    [pa.field(name, _ARROW_TYPES.get(name, pa.string()), nullable=name not in _REQUIRED) for name in FIELDS]
    + [
        pa.field("currency", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("extra", pa.string()),
    ]
)
"""One row per trade as the exchange stated it; times in ms UTC, prices and amounts as the API's units."""

_page_decoder = msgspec.json.Decoder(Envelope[Page])
_raw_page_decoder = msgspec.json.Decoder(Envelope[_RawPage])
_GETTERS = [(name, attrgetter(name)) for name in FIELDS]


def decode_page(body: bytes) -> TradePage:
    """A page of trades from the body of an answer.

    Raises NoResultError where the body holds no result, msgspec.DecodeError where it is no JSON.
    """
    try:
        page = _page_decoder.decode(body).unwrap()
    except msgspec.ValidationError:
        return _decode_record_by_record(body)
    return TradePage(page.trades, page.has_more)


def _decode_record_by_record(body: bytes) -> TradePage:
    """The slow way, for a page that holds a field or a type that `Trade` does not know."""
    try:
        page = _raw_page_decoder.decode(body).unwrap()
    except msgspec.ValidationError as error:
        raise NoResultError(f"the answer is no page of trades: {error}") from error
    trades: list[Trade] = []
    rejected: list[Rejected] = []
    unknown: set[str] = set()
    for raw in page.trades:
        try:
            trade = _decode_loosely(raw, unknown)
        except (msgspec.ValidationError, TypeError) as error:
            rejected.append(Rejected(str(error), bytes(raw).decode("utf-8", "replace")))
        else:
            trades.append(trade)
    return TradePage(trades, page.has_more, rejected, frozenset(unknown))


def _decode_loosely(raw: msgspec.Raw, unknown: set[str]) -> Trade:
    record = msgspec.json.decode(raw)
    if not isinstance(record, dict):
        raise TypeError(f"a trade is an object, not {type(record).__name__}")
    legs = record.pop("legs", None)
    values: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for name, value in record.items():
        if name not in FIELDS:
            extra[name] = value
        else:
            try:
                values[name] = _as_typed(name, value)
            except msgspec.ValidationError as error:
                if name in _REQUIRED:
                    raise msgspec.ValidationError(f"{name}: {error}") from error
                extra[name] = value
    missing = [name for name in _REQUIRED if values.get(name) is None]
    if missing:
        raise msgspec.ValidationError(f"{missing[0]} is missing")
    if legs is not None:
        values["legs"] = msgspec.Raw(msgspec.json.encode(legs))
    unknown.update(extra)
    return LooseTrade(**values, extra=msgspec.json.encode(extra).decode() if extra else None)


_FIELD_TYPES = {f.name: f.type for f in msgspec.structs.fields(Trade)}


def _as_typed(name: str, value: object) -> object:
    """`value` as its column's type, taking a number in quotes for a number and a number for text."""
    text_wanted = name in _ARROW_TYPES and isinstance(value, str)
    if isinstance(value, bool) and name in _ARROW_TYPES:
        raise msgspec.ValidationError("a number was expected, not true or false")
    if not text_wanted and isinstance(value, (int, float)) and name not in _ARROW_TYPES:
        return str(value)
    return msgspec.convert(value, _FIELD_TYPES[name], strict=False)


def to_table(trades: Sequence[Trade], currency: str, kind: str) -> pa.Table:
    """Arrow table in ARROW_SCHEMA, one row per trade, in the order given."""
    count = len(trades)
    # A list per field: half the cost of a tuple per trade, and nothing that the garbage collector looks at.
    arrays = [_column(name, list(map(get, trades)), count) for name, get in _GETTERS]
    extra = [getattr(trade, "extra", None) for trade in trades] if _any_loose(trades) else None
    arrays += [
        pa.repeat(pa.scalar(currency), count),
        pa.repeat(pa.scalar(kind), count),
        pa.array(extra, pa.string()) if extra else pa.nulls(count, pa.string()),
    ]
    return pa.Table.from_arrays(arrays, schema=ARROW_SCHEMA)


def _any_loose(trades: Iterable[Trade]) -> bool:
    return any(type(trade) is LooseTrade for trade in trades)


def _column(name: str, values: Sequence[Any], count: int) -> pa.Array:
    kind = ARROW_SCHEMA.field(name).type
    if name == "legs":
        if all(value is None for value in values):
            return pa.nulls(count, kind)
        values = [None if value is None else bytes(value).decode() for value in values]
    if values.count(None) == count:
        return pa.nulls(count, kind)
    if name == "timestamp":
        return pa.array(values, pa.int64()).view(kind)
    return pa.array(values, kind)
