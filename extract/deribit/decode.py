"""Decode the body of an answer into a page of trades.

All records are typed at once; a record that does not fit is typed field by field or rejected, without affecting others.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

import msgspec

from extract.deribit.arrow import sort_by_instrument, to_table
from extract.deribit.jsonrpc import DECODE_ERRORS, Envelope, NoResultError
from extract.deribit.records import (
    Record,
    TooManyRecordsError,
    decode_envelope,
    is_placeholder,
    split_records,
)
from extract.deribit.schema import (
    ARROW_TYPES,
    FIELDS,
    MAX_SEQ,
    REQUIRED,
    RejectedTrade,
    Trade,
    TradePage,
    TradeWithExtras,
)

MAX_PAGE_RECORDS = 100_000
"""The exchange sends up to 10,000 trades in a page."""
LARGE_PAGE_BYTES = 8 * 2**20
"""A page of this size is decoded only if it cannot have too many records, to bound memory."""

MAX_IDENTITY_BYTES = 2**10
MAX_REJECTED_MS = 10**13
"""Greatest time that is read from a rejected record, in ms. Beyond MAX_TIME_MS it shows a trade that was not requested."""
_NULL = msgspec.Raw(b"null")

R = TypeVar("R")


class _Page(msgspec.Struct, Generic[R]):
    trades: list[R]
    has_more: msgspec.Raw = _NULL


class _RawPage(msgspec.Struct):
    trades: msgspec.Raw
    has_more: msgspec.Raw = _NULL


class _Identity(msgspec.Struct):
    instrument_name: msgspec.Raw = _NULL
    trade_seq: msgspec.Raw = _NULL
    timestamp: msgspec.Raw = _NULL


_page_decoder = msgspec.json.Decoder(Envelope[_Page[Trade]])
_lenient_page_decoder = msgspec.json.Decoder(Envelope[_Page[TradeWithExtras]], strict=False)
_fields_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_raw_records_decoder = msgspec.json.Decoder(Envelope[_Page[msgspec.Raw]])
_raw_page_decoder = msgspec.json.Decoder(Envelope[_RawPage])
_record_decoder = msgspec.json.Decoder(Trade)
_identity_decoder = msgspec.json.Decoder(_Identity)
_COLUMNS = frozenset(FIELDS)
_slow_path = threading.Lock()
"""Pages with odd records take more memory, so each process decodes one at a time."""


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
    if len(body) > LARGE_PAGE_BYTES and body.count(b"{") > MAX_PAGE_RECORDS:
        raise TooManyRecordsError("The exchange sent more trades in a page than any request can have.")
    is_utf8 = _is_utf8(body)  # otherwise raw JSON would carry invalid text into the table
    if is_utf8:
        with suppress(*DECODE_ERRORS):
            return _decode_strictly(body)
    with _slow_path:
        if is_utf8:
            with suppress(*DECODE_ERRORS):
                return _decode_leniently(body)
        return decode_record_by_record(body)


def _decode_strictly(body: bytes) -> Decoded:
    answer = _page_decoder.decode(body)
    page = answer.unwrap()
    return page.trades, [], _is_true(page.has_more), answer.at_ms


def _decode_leniently(body: bytes) -> Decoded:
    """Decode a page with unknown fields, or with numbers in quotes."""
    answer = _lenient_page_decoder.decode(body)
    page = answer.unwrap()
    texts = _raw_records_decoder.decode(body).unwrap().trades
    for trade, text in zip(page.trades, texts, strict=True):
        fields = _fields_decoder.decode(text)
        trade.extra = _extra_json({name: value for name, value in fields.items() if name not in _COLUMNS})
    return page.trades, [], _is_true(page.has_more), answer.at_ms


def _extra_json(fields: dict[str, Any]) -> str | None:
    return msgspec.json.encode(fields).decode() if fields else None


def decode_record_by_record(body: bytes) -> Decoded:
    """Decode each record alone: slower, but a record that does not fit affects no other."""
    try:
        answer, replaced = decode_envelope(_raw_page_decoder, body)
    except msgspec.ValidationError as error:
        raise NoResultError(f"the answer is not a page of trades: {error}") from error
    page = answer.unwrap()
    trades: list[Trade] = []
    rejected: list[RejectedTrade] = []
    for record in split_records(page.trades, replaced, MAX_PAGE_RECORDS):
        fault = record.fault
        if not fault:
            try:
                trades.append(_decode_record(record.text))
            except (*DECODE_ERRORS, TypeError) as error:
                fault = str(error)
        if fault:
            rejected.append(_rejected(record, fault))
    return trades, rejected, _is_true(page.has_more), answer.at_ms


def _deduplicate(trades: Sequence[Trade]) -> Sequence[Trade]:
    if len({trade.trade_id for trade in trades}) == len(trades):
        return trades
    return list(
        {(trade.instrument_name, trade.trade_seq, trade.trade_id): trade for trade in trades}.values()
    )


def _decode_record(raw: bytes) -> Trade:
    raw.decode()
    try:
        return _record_decoder.decode(raw)
    except msgspec.DecodeError:
        return decode_fields(raw)


def _is_utf8(body: bytes) -> bool:
    try:
        return body.isascii() or bool(body.decode())
    except UnicodeDecodeError:
        return False


def decode_fields(raw: bytes) -> TradeWithExtras:
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


def _rejected(record: Record, reason: str) -> RejectedTrade:
    known = _Identity()
    with suppress(*DECODE_ERRORS):
        known = _identity_decoder.decode(record.text)
    name, seq, time_ms = map(_short_value, (known.instrument_name, known.trade_seq, known.timestamp))
    return RejectedTrade(
        reason,
        record.sent.decode("utf-8", "replace"),
        key=(name, seq) if isinstance(name, str) and _is_within(seq, 1, MAX_SEQ) else None,
        timestamp=time_ms if _is_within(time_ms, 0, MAX_REJECTED_MS) else None,
    )


def _short_value(text: msgspec.Raw) -> Any:
    """The value of a name or a number; None for a longer text, and for one that cannot be decoded."""
    value = bytes(text)
    if len(value) <= MAX_IDENTITY_BYTES and not is_placeholder(value):
        with suppress(*DECODE_ERRORS):
            return msgspec.json.decode(value)
    return None


def _is_true(has_more: msgspec.Raw) -> bool:
    """Whether `has_more` is neither false, 0 nor null; without it, a full page counts as one that has more."""
    return bytes(has_more).strip(b'"').lower() not in (b"false", b"0", b"null", b"")


def _is_within(value: Any, first: int, last: int) -> bool:
    return type(value) is int and first <= value <= last
