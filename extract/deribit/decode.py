"""A page of trades from the body of an answer: typed at once, or record by record where one does not fit.

A field that nothing knows is learned: the next pages that bear it are typed at once again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from extract.deribit.jsonrpc import DECODE_ERRORS, Envelope, NoResultError
from extract.deribit.schema import (
    ARROW_TYPES,
    FIELDS,
    REQUIRED,
    RejectedTrade,
    Trade,
    TradePage,
    TradeWithExtras,
    by_instrument,
    register_unknown_fields,
    to_table,
)

MOST_LEARNED = 64
"""Fields beyond it are taken record by record: an exchange that makes up names must not fill the memory."""


class _RawPage(msgspec.Struct):
    trades: list[msgspec.Raw]
    has_more: bool = False


class _FieldsPage(msgspec.Struct):
    trades: list[dict[str, msgspec.Raw]]


class _Identity(msgspec.Struct):
    instrument_name: Any = None
    trade_seq: Any = None
    timestamp: Any = None


class _Decoders:
    """Decoders of pages and of records that know `learned` beside the columns."""

    def __init__(self, learned: tuple[str, ...] = ()) -> None:
        self.learned = learned
        self.attributes = {f"x{number}": name for number, name in enumerate(learned)}
        self.trade = self._struct() if learned else Trade
        page = msgspec.defstruct("Page", [("trades", list[self.trade]), ("has_more", bool, False)])
        self.page = msgspec.json.Decoder(Envelope[page])
        self.lenient_page = msgspec.json.Decoder(Envelope[page], strict=False)
        self.record = msgspec.json.Decoder(self.trade)

    def _struct(self) -> type[Trade]:
        raw = msgspec.Raw | msgspec.UnsetType
        trade = msgspec.defstruct(
            "LearnedTrade",
            [(attribute, raw, msgspec.UNSET) for attribute in self.attributes],
            bases=(Trade,),
            rename=self.attributes,
            kw_only=True,
            forbid_unknown_fields=True,
            gc=False,
        )
        register_unknown_fields(trade, self.attributes)
        return trade


_decoders = _Decoders()
_raw_page_decoder = msgspec.json.Decoder(Envelope[_RawPage])
_fields_decoder = msgspec.json.Decoder(Envelope[_FieldsPage])
_identity_decoder = msgspec.json.Decoder(_Identity)


def decode_page(body: bytes) -> TradePage:
    """A page of trades from the body of an answer.

    Raises NoResultError where the body holds no result, one of NO_JSON where it is no JSON.
    """
    trades, rejected, has_more, at_ms = decode_trades(body)
    table, is_each_once = by_instrument(to_table(trades))
    if not is_each_once and len(once := _deduplicate(trades)) < len(trades):
        table, _ = by_instrument(to_table(once))
    return TradePage(table, len(trades) + len(rejected), has_more, rejected, at_ms=at_ms)


Decoded = tuple[Sequence[Trade], list[RejectedTrade], bool, int | None]


def decode_trades(body: bytes) -> Decoded:
    """(trades, what could not be typed, has_more, time of the answer in ms). Raises as `decode_page`."""
    if not _is_utf8(body):  # raw pieces would carry what is no text into the table
        return decode_record_by_record(body)
    for decoder in _decoders_to_try(body):
        try:
            answer = decoder.decode(body)
        except DECODE_ERRORS:
            continue
        page = answer.unwrap()
        return page.trades, [], page.has_more, answer.at_ms
    return decode_record_by_record(body)


def decode_record_by_record(body: bytes) -> Decoded:
    """The slow way, for a page with a record that does not fit."""
    try:
        answer = _raw_page_decoder.decode(body)
    except msgspec.ValidationError as error:
        raise NoResultError(f"the answer is no page of trades: {error}") from error
    raw_page, decoders = answer.unwrap(), _decoders
    trades: list[Trade] = []
    rejected: list[RejectedTrade] = []
    for raw in raw_page.trades:
        try:
            trades.append(_decode_record(raw, decoders))
        except (*DECODE_ERRORS, TypeError) as error:
            rejected.append(_rejected(raw, str(error)))
    return trades, rejected, raw_page.has_more, answer.at_ms


def _deduplicate(trades: Sequence[Trade]) -> Sequence[Trade]:
    if len({trade.trade_id for trade in trades}) == len(trades):
        return trades
    return list({(trade.instrument_name, trade.trade_seq): trade for trade in trades}.values())


def _decode_record(raw: msgspec.Raw, decoders: _Decoders) -> Trade:
    bytes(raw).decode()
    try:
        return decoders.record.decode(raw)
    except msgspec.DecodeError:
        return _decode_loosely(raw)


def _is_utf8(body: bytes) -> bool:
    try:
        return body.isascii() or bool(body.decode())
    except UnicodeDecodeError:
        return False


def _decode_loosely(raw: msgspec.Raw) -> Trade:
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
    return TradeWithExtras(**values, extra=msgspec.json.encode(extra).decode() if extra else None)


_FIELD_TYPES = {f.name: f.type for f in msgspec.structs.fields(Trade)}


def _as_typed(name: str, value: object) -> object:
    """`value` as its column's type, taking a number in quotes for a number and a number for text."""
    is_number = name in ARROW_TYPES
    if isinstance(value, bool):
        raise msgspec.ValidationError(
            f"{'a number' if is_number else 'text'} was expected, not true or false"
        )
    if not is_number and isinstance(value, (int, float)):
        return str(value)
    return msgspec.convert(value, _FIELD_TYPES[name], strict=False)


def _rejected(raw: msgspec.Raw, reason: str) -> RejectedTrade:
    try:
        known = _identity_decoder.decode(raw)
    except DECODE_ERRORS:
        known = _Identity()
    named = type(known.instrument_name) is str and _is_int64(known.trade_seq)
    return RejectedTrade(
        reason,
        bytes(raw).decode("utf-8", "replace"),
        key=(known.instrument_name, known.trade_seq) if named else None,
        timestamp=known.timestamp if _is_int64(known.timestamp) else None,
    )


def _is_int64(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _decoders_to_try(body: bytes) -> Iterator[msgspec.json.Decoder[Any]]:
    """What is known so far, then what this page teaches, then numbers in quotes."""
    known = _decoders
    yield known.page
    taught = _decoder_for_fields_of(body)
    if taught is not known:
        yield taught.page
    yield taught.lenient_page


def _decoder_for_fields_of(body: bytes) -> _Decoders:
    """Decoders that know every field of `body`, from now on used first."""
    global _decoders
    try:
        page = _fields_decoder.decode(body).unwrap()
    except (*DECODE_ERRORS, NoResultError):
        return _decoders
    names = dict.fromkeys(name for record in page.trades for name in record if name not in FIELDS)
    learned = tuple(dict.fromkeys([*_decoders.learned, *names]))
    if learned != _decoders.learned and len(learned) <= MOST_LEARNED:
        _decoders = _Decoders(learned)
    return _decoders
