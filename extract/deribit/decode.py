"""Decode the body of an answer into a page of trades.

All records are typed at once; a record that does not fit is typed field by field or rejected, without affecting others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec

from extract.deribit.arrow import sort_by_instrument, to_table
from extract.deribit.jsonrpc import DECODE_ERRORS, Envelope, NoResultError
from extract.deribit.schema import (
    ARROW_TYPES,
    FIELDS,
    REQUIRED,
    RejectedTrade,
    Trade,
    TradePage,
    TradeWithExtras,
)

MAX_DEPTH = 64
"""Levels of nesting in a record that is rejected if decoding it exceeds Python's recursion limit."""

R = TypeVar("R")


class _Page(msgspec.Struct, Generic[R]):
    trades: list[R]
    has_more: bool = False


class _Identity(msgspec.Struct):
    instrument_name: Any = None
    trade_seq: Any = None
    timestamp: Any = None


_page_decoder = msgspec.json.Decoder(Envelope[_Page[Trade]])
_lenient_page_decoder = msgspec.json.Decoder(Envelope[_Page[TradeWithExtras]], strict=False)
_fields_decoder = msgspec.json.Decoder(Envelope[_Page[dict[str, msgspec.Raw]]])
_raw_page_decoder = msgspec.json.Decoder(Envelope[_Page[msgspec.Raw]])
_record_decoder = msgspec.json.Decoder(Trade)
_identity_decoder = msgspec.json.Decoder(_Identity)
_COLUMNS = frozenset(FIELDS)
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[\]{}]', re.DOTALL)


def decode_page(body: bytes) -> TradePage:
    """A page of trades from the body of an answer.

    Raises NoResultError if the body holds no result, and one of DECODE_ERRORS if it is not JSON.
    """
    trades, rejected, has_more, at_ms = decode_trades(body)
    table, is_each_once = sort_by_instrument(to_table(trades))
    if not is_each_once and len(once := _deduplicate(trades)) < len(trades):
        table, _ = sort_by_instrument(to_table(once))
    return TradePage(table, len(trades) + len(rejected), has_more, rejected, at_ms=at_ms)


Decoded = tuple[Sequence[Trade], list[RejectedTrade], bool, int | None]


def decode_trades(body: bytes) -> Decoded:
    """(trades, rejected records, has_more, time of the answer in ms). Raises the errors of `decode_page`."""
    if _is_utf8(body):  # otherwise raw JSON would carry invalid text into the table
        for decode in (_decode_strictly, _decode_leniently):
            try:
                return decode(body)
            except DECODE_ERRORS:
                continue
    return decode_record_by_record(body)


def _decode_strictly(body: bytes) -> Decoded:
    answer = _page_decoder.decode(body)
    page = answer.unwrap()
    return page.trades, [], page.has_more, answer.at_ms


def _decode_leniently(body: bytes) -> Decoded:
    """Decode a page with unknown fields, or with numbers in quotes."""
    answer = _lenient_page_decoder.decode(body)
    page = answer.unwrap()
    for trade, record in zip(page.trades, _fields_decoder.decode(body).unwrap().trades, strict=True):
        trade.extra = _extra_json({name: value for name, value in record.items() if name not in _COLUMNS})
    return page.trades, [], page.has_more, answer.at_ms


def _extra_json(fields: dict[str, Any]) -> str | None:
    return msgspec.json.encode(fields).decode() if fields else None


def decode_record_by_record(body: bytes) -> Decoded:
    """Decode each record alone: slower, but a record that does not fit affects no other."""
    deep_values: dict[bytes, bytes] = {}
    try:
        answer = _raw_page_decoder.decode(body)
    except RecursionError:
        body, deep_values = _replace_deep_values(body)
        answer = _raw_page_decoder.decode(body)
    except msgspec.ValidationError as error:
        raise NoResultError(f"the answer is not a page of trades: {error}") from error
    page = answer.unwrap()
    trades: list[Trade] = []
    rejected: list[RejectedTrade] = []
    for raw in page.trades:
        text = bytes(raw)
        if deep := [key for key in deep_values if key in text]:
            for key in deep:
                text = text.replace(key, deep_values[key])
            rejected.append(_rejected(raw, text, f"nested deeper than {MAX_DEPTH} levels"))
            continue
        try:
            trades.append(_decode_record(raw))
        except (*DECODE_ERRORS, TypeError) as error:
            rejected.append(_rejected(raw, text, str(error)))
    return trades, rejected, page.has_more, answer.at_ms


def _replace_deep_values(body: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """(`body` with a placeholder for each value nested deeper than MAX_DEPTH, those values by placeholder)."""
    parts: list[bytes] = []
    values: dict[bytes, bytes] = {}
    depth = copied_to = start = 0
    for token in _TOKENS.finditer(body):
        if token[0] in b"[{":
            depth += 1
            if depth == MAX_DEPTH + 1:
                start = token.start()
        elif token[0] in b"]}":
            if depth == MAX_DEPTH + 1:
                placeholder = b'"\\u0000deep value %d"' % len(values)
                values[placeholder] = body[start : token.end()]
                parts += [body[copied_to:start], placeholder]
                copied_to = token.end()
            depth -= 1
    return b"".join([*parts, body[copied_to:]]), values


def _deduplicate(trades: Sequence[Trade]) -> Sequence[Trade]:
    if len({trade.trade_id for trade in trades}) == len(trades):
        return trades
    return list({(trade.instrument_name, trade.trade_seq): trade for trade in trades}.values())


def _decode_record(raw: msgspec.Raw) -> Trade:
    bytes(raw).decode()
    try:
        return _record_decoder.decode(raw)
    except msgspec.DecodeError:
        return decode_fields(raw)


def _is_utf8(body: bytes) -> bool:
    try:
        return body.isascii() or bool(body.decode())
    except UnicodeDecodeError:
        return False


def decode_fields(raw: msgspec.Raw) -> TradeWithExtras:
    """Decode a record field by field: an optional field of another type goes to `extra`.

    Raises TypeError or one of DECODE_ERRORS if the record is not an object, or a required field does not fit.
    """
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
                if name in REQUIRED:
                    raise msgspec.ValidationError(f"{name}: {error}") from error
                extra[name] = value
    missing = [name for name in REQUIRED if values.get(name) is None]
    if missing:
        raise msgspec.ValidationError(f"{missing[0]} is missing")
    if legs is not None:
        values["legs"] = msgspec.Raw(msgspec.json.encode(legs))
    return TradeWithExtras(**values, extra=_extra_json(extra))


_FIELD_TYPES = {f.name: f.type for f in msgspec.structs.fields(Trade)}


def _as_typed(name: str, value: object) -> object:
    """Convert `value` to its column's type; numbers in quotes become numbers, and numbers become text."""
    is_number = name in ARROW_TYPES
    if isinstance(value, bool):
        raise msgspec.ValidationError(
            f"{'a number' if is_number else 'text'} was expected, not true or false"
        )
    if not is_number and isinstance(value, (int, float)):
        return str(value)
    return msgspec.convert(value, _FIELD_TYPES[name], strict=False)


def _rejected(raw: msgspec.Raw, text: bytes, reason: str) -> RejectedTrade:
    try:
        known = _identity_decoder.decode(raw)
    except DECODE_ERRORS:
        known = _Identity()
    named = type(known.instrument_name) is str and _is_int64(known.trade_seq)
    return RejectedTrade(
        reason,
        text.decode("utf-8", "replace"),
        key=(known.instrument_name, known.trade_seq) if named else None,
        timestamp=known.timestamp if _is_int64(known.timestamp) else None,
    )


def _is_int64(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63
